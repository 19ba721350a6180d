package api

import (
	"encoding/json"
	"math/rand/v2"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// fill sets every field of v to something or to nothing, at random.
func fill(r *rand.Rand, v reflect.Value) {
	if r.IntN(4) == 0 {
		return
	}
	if v.Type() == reflect.TypeFor[time.Time]() {
		t := time.Unix(r.Int64N(1<<33), r.Int64N(1e9)).UTC()
		if r.IntN(2) == 0 {
			t = t.In(time.FixedZone("", 20700)).Truncate(time.Second)
		}
		v.Set(reflect.ValueOf(t))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(4) {
			v.SetMapIndex(reflect.ValueOf(words8(r)), reflect.ValueOf(words8(r)))
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(words8(r))
	case reflect.Int, reflect.Int64:
		v.SetInt(r.Int64N(1<<31) - 1<<30)
	}
}

// words8 returns a short string with whatever JSON has to escape.
func words8(r *rand.Rand) string {
	parts := []string{"a", "Z", "0", " ", "~", "\x7f", "\"", "\\", "<", ">", "&", "\n", "\x00", "é", "\u2028", "\U0001f400", "\xff", "/"}
	s := ""
	for range r.IntN(8) {
		n := len(parts)
		if r.IntN(2) == 0 {
			n = 5 // nothing to escape
		}
		s += parts[r.IntN(n)]
	}
	return s
}

// The encoder by hand makes exactly what encoding/json does. A field that is
// added to a wire type and forgotten here fails this test.
func TestEncoderIsEncodingJSON(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 800 {
		var in client.Installation
		var op client.Operation
		fill(r, reflect.ValueOf(&in).Elem())
		fill(r, reflect.ValueOf(&op).Elem())
		want, err := json.Marshal(in)
		require.NoError(t, err)
		var e encoder
		e.installation(&in)
		require.Equal(t, string(want), string(e.buf))
		want, err = json.Marshal(op)
		require.NoError(t, err)
		e = encoder{}
		e.operation(&op)
		require.Equal(t, string(want), string(e.buf))
	}
}

func TestPageOfInstallationsIsEncodingJSON(t *testing.T) {
	t.Parallel()
	s := testServer(t)
	for _, n := range []int{0, 1, 3} {
		page := client.Page[client.Installation]{Items: []client.Installation{}, NextCursor: words8(rand.New(rand.NewPCG(1, 2)))}
		var views []InstallationView
		for i := range n {
			views = append(views, fullView(i))
			page.Items = append(page.Items, s.wireInstallation(&views[i]))
		}
		want, err := json.Marshal(page)
		require.NoError(t, err)
		for range 2 { // the buffer is used again
			w := httptest.NewRecorder()
			s.writeInstallations(w, views, page.NextCursor)
			require.Equal(t, string(want), w.Body.String())
		}
	}
}
