package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"dormouse/internal/fleet"
)

const (
	// maxBody bounds every JSON body, in bytes.
	maxBody = 1 << 20
	// maxDepth bounds how deep objects and arrays may nest; ours nest four deep.
	maxDepth = 16
)

// members says what a JSON object holds, by dotted path: a path that is absent
// was not sent, which the decoded struct can't tell from zero or null. The
// elements of an array are numbered: rings.0.name.
type members struct {
	present map[string]bool
	null    map[string]bool
}

// decodeBody reads a JSON object into v, which points to a struct. It refuses
// another content type (415), a body over maxBody (413), and with KindInvalid
// naming the field: no body, text that is not JSON, not UTF-8 or has something
// behind the object, unknown fields (also by case), fields given twice and
// values of another type. It returns the body as well, for the request's hash.
func decodeBody(r *http.Request, v any, types ...string) (members, []byte, error) {
	var m members
	if err := checkContentType(r, types); err != nil {
		return m, nil, err
	}
	body, err := readBody(r, maxBody)
	if err != nil {
		return m, nil, err
	}
	m, err = decodeJSON(body, v)
	return m, body, err
}

func checkContentType(r *http.Request, types []string) error {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return httpProblem(http.StatusUnsupportedMediaType, "send the body without a Content-Encoding, not as %s", printable(enc))
	}
	given := r.Header.Get("Content-Type")
	kind, params, err := mime.ParseMediaType(given)
	charset := params["charset"]
	if err != nil || !slices.Contains(types, kind) || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return httpProblem(http.StatusUnsupportedMediaType, "send the body with Content-Type %s, not %s",
			strings.Join(types, " or "), printable(given))
	}
	return nil
}

func readBody(r *http.Request, limit int64) ([]byte, error) {
	// The nil writer only means that the server is not told to close early.
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, limit))
	if err != nil {
		return nil, bodyError(err)
	}
	return body, nil
}

// bodyError is what the caller is told of a body that can't be read to its end.
func bodyError(err error) error {
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return httpProblem(http.StatusRequestEntityTooLarge, "the body is larger than the %d bytes that are allowed here", big.Limit)
	}
	return fleet.Errorf(fleet.KindInvalid, "the body ended early: send it again whole")
}

// emptyBody refuses a body where none is expected; {} passes for none.
func emptyBody(r *http.Request) ([]byte, error) {
	body, err := readBody(r, maxBody)
	if err != nil {
		return nil, err
	}
	if t := bytes.TrimSpace(body); len(t) > 0 && string(t) != "{}" {
		return nil, fleet.Errorf(fleet.KindInvalid, "this request takes no body: leave it out")
	}
	return body, nil
}

// decodeJSON is decodeBody for a body at hand.
func decodeJSON(body []byte, v any) (members, error) {
	m := members{present: map[string]bool{}, null: map[string]bool{}}
	if len(bytes.TrimSpace(body)) == 0 {
		return m, fleet.Errorf(fleet.KindInvalid, "the body is empty: send a JSON object")
	}
	if !utf8.Valid(body) {
		return m, fleet.Errorf(fleet.KindInvalid, "the body is not UTF-8: JSON must be")
	}
	scan := json.NewDecoder(bytes.NewReader(body))
	scan.UseNumber()
	if err := m.object(scan, reflect.TypeOf(v).Elem()); err != nil {
		return m, err
	}
	if _, err := scan.Token(); !errors.Is(err, io.EOF) {
		return m, fleet.Errorf(fleet.KindInvalid, "there is something behind the JSON object: send one object only")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return m, decodeError(err, reflect.TypeOf(v).Elem())
	}
	return m, nil
}

// decodeError says what is wrong without repeating a value, which may be secret.
func decodeError(err error, t reflect.Type) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		given, _, _ := strings.Cut(wrongType.Value, " ")
		field := wrongType.Field
		for i := range t.NumField() {
			if t.Field(i).Anonymous { // which is no part of the path in JSON
				field = strings.TrimPrefix(field, t.Field(i).Name+".")
			}
		}
		return fleet.InvalidField(field, "%s must be %s, not %s", field, typeName(wrongType.Type), given)
	}
	return syntaxError(err)
}

func syntaxError(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fleet.Errorf(fleet.KindInvalid, "the body is not JSON at byte %d: check quotes, commas and braces", syntax.Offset)
	}
	return fleet.Errorf(fleet.KindInvalid, "the body is not a whole JSON object: check that it was sent to its end")
}

func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.String:
		return "a string"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "of another type"
}

// jsonFields are the names that a struct has in JSON, those of embedded structs
// included, and their types; nil for another type.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	fields := make(map[string]reflect.Type, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			maps.Copy(fields, jsonFields(f.Type))
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = f.Type
	}
	return fields
}

// within is the type of what a list or a map holds; nil where t is neither.
func within(t reflect.Type) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Map:
		return t.Elem()
	}
	return nil
}

// object reads a JSON object that is to become a struct of type t.
func (m members) object(d *json.Decoder, t reflect.Type) error {
	token, err := d.Token()
	if err != nil {
		return syntaxError(err)
	}
	if token != json.Delim('{') {
		return fleet.Errorf(fleet.KindInvalid, "the body must be a JSON object")
	}
	return m.inside(d, "", 1, t)
}

// inside reads the rest of an object whose opening brace has been read. Where
// it is to become a struct, the struct knows the names.
func (m members) inside(d *json.Decoder, prefix string, depth int, t reflect.Type) error {
	fields := jsonFields(t)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return syntaxError(err)
		}
		name, ok := token.(string)
		if !ok {
			return fleet.Errorf(fleet.KindInvalid, "the body is not JSON: a field's name must be a string")
		}
		path, inner := prefix+name, within(t)
		if fields != nil {
			if inner, ok = fields[name]; !ok {
				return fleet.InvalidField(printable(path), "there is no field %s here: %s",
					printable(path), known(slices.Collect(maps.Keys(fields))))
			}
		}
		if m.present[path] {
			return fleet.InvalidField(printable(path), "%s is given twice: give it once", printable(path))
		}
		m.present[path] = true
		if err := m.value(d, path, depth, inner); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return syntaxError(err)
	}
	return nil
}

func (m members) value(d *json.Decoder, path string, depth int, t reflect.Type) error {
	token, err := d.Token()
	if err != nil {
		return syntaxError(err)
	}
	if depth >= maxDepth {
		return fleet.InvalidField(printable(path), "it nests deeper than %d levels", maxDepth)
	}
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch token {
	case nil:
		m.null[path] = true
	case json.Delim('{'):
		return m.inside(d, path+".", depth+1, t)
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			if err := m.value(d, fmt.Sprintf("%s.%d", path, i), depth+1, within(t)); err != nil {
				return err
			}
		}
		if _, err := d.Token(); err != nil {
			return syntaxError(err)
		}
	}
	return nil
}

// noNull refuses null where it has no meaning: everywhere but in a patch's maps.
func (m members) noNull() error {
	for path := range m.null {
		return fleet.InvalidField(printable(path), "%s must not be null: leave it out", printable(path))
	}
	return nil
}
