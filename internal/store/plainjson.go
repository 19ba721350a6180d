package store

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// What every row of a list has is decoded by hand, several times faster than by
// encoding/json: texts by name, endpoints and steps, as Postgres prints jsonb.
// Whatever else is found (anything escaped, nested or unknown) is left to encoding/json.

// decodeTexts decodes an object of texts; nil where it is null or empty.
func decodeTexts(b []byte) (map[string]string, error) {
	if len(b) <= 2 {
		return nil, nil
	}
	m := make(map[string]string, 4)
	rest, plain := plainObject(plainText(b), func(name, value string, quoted bool) bool {
		m[name] = value
		return quoted
	})
	if plain && rest == "" {
		return m, nil
	}
	m = nil
	err := jsonText{b}.into(&m)
	return m, err
}

// decodeArray decodes an array of objects; nil where it is null or empty. set
// sets the field with that name in JSON, and says false where it can't.
func decodeArray[T any](b []byte, set func(to *T, name, value string, quoted bool) bool) ([]T, error) {
	if len(b) <= 2 {
		return nil, nil
	}
	var all []T
	rest, plain := strings.CutPrefix(plainText(b), "[")
	for plain {
		var one T
		if rest, plain = plainObject(rest, func(name, value string, quoted bool) bool { return set(&one, name, value, quoted) }); plain {
			all = append(all, one)
			if rest == "]" {
				return all, nil
			}
			rest, plain = strings.CutPrefix(rest, ", ")
		}
	}
	all = nil
	err := jsonText{b}.into(&all)
	return all, err
}

func setEndpoint(e *fleet.Endpoint, name, value string, quoted bool) bool {
	switch name {
	case "port":
		return !quoted && setInt(&e.Port, value)
	case "protocol":
		e.Protocol = fleet.Protocol(value)
	case "name":
		e.Name = value
	case "address":
		e.Address = value
	default:
		return false
	}
	return quoted
}

func setStep(d *fleet.StepDone, name, value string, quoted bool) bool {
	switch name {
	case "number":
		return !quoted && setInt(&d.Number, value)
	case "attempts":
		return !quoted && setInt(&d.Attempts, value)
	case "started_at":
		return quoted && setTime(&d.StartedAt, value)
	case "finished_at":
		return quoted && setTime(&d.FinishedAt, value)
	case "name":
		d.Name = value
		return quoted
	}
	return false
}

func setInt(to *int, value string) bool {
	n, err := strconv.Atoi(value)
	*to = n
	return err == nil
}

func setTime(to *time.Time, value string) bool {
	t, err := time.Parse(time.RFC3339Nano, value)
	*to = t
	return err == nil
}

// plainText returns b as text, of which all that is decoded is a part; "" where anything in it is escaped.
func plainText(b []byte) string {
	if bytes.IndexByte(b, '\\') >= 0 {
		return ""
	}
	return string(b)
}

// plainObject reads {"NAME": VALUE, "NAME": VALUE} off the beginning of s, where
// a VALUE is a quoted text or a whole number, and calls each until it says
// false. It returns what follows the object; false where s begins with anything else.
func plainObject(s string, each func(name, value string, quoted bool) bool) (rest string, ok bool) {
	s, ok = strings.CutPrefix(s, "{")
	for ok {
		var name, value string
		if name, s, ok = cutQuoted(s); !ok {
			break
		}
		if s, ok = strings.CutPrefix(s, ": "); !ok {
			break
		}
		quoted := strings.HasPrefix(s, `"`)
		if quoted {
			value, s, ok = cutQuoted(s)
		} else {
			n := len(s) - len(strings.TrimLeft(s, "0123456789"))
			value, s, ok = s[:n], s[n:], n > 0
		}
		if !ok || !each(name, value, quoted) {
			break
		}
		if rest, end := strings.CutPrefix(s, "}"); end {
			return rest, true
		}
		s, ok = strings.CutPrefix(s, ", ")
	}
	return "", false
}

// cutQuoted cuts a quoted text off the beginning of s.
func cutQuoted(s string) (text, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", s, false
	}
	return strings.Cut(s[1:], `"`)
}
