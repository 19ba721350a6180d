package store

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// printed returns values as Postgres prints them in a jsonb column.
func printed(t *testing.T, s *Store, values []any) []string {
	t.Helper()
	texts := make([]string, len(values))
	for i, v := range values {
		var err error
		texts[i], err = encode(v)
		require.NoError(t, err)
	}
	var out []string
	require.NoError(t, s.db.Select(&out, `SELECT j::text FROM unnest($1::jsonb[]) WITH ORDINALITY AS u (j, n) ORDER BY n`, pq.Array(texts)))
	require.Len(t, out, len(values))
	return out
}

// What is decoded by hand is what encoding/json makes of it, also of what is cut off.
func TestPlainJSONIsEncodingJSON(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"", "a", "KEY", "hello world", "7", "é", "a: b", "{", "}", "[", ", ", `"`, `\`, "\n", "\u2028", "<&>", "null"}
	word := func() string { return words[r.IntN(len(words))] + words[r.IntN(len(words))] }
	maps := []any{map[string]any{"a": 1}, map[string]any{"a": nil, "b": "c"}, map[string]any{"a": []string{"b"}}, []string{"a"}, "text", 12345}
	lists := []any{
		[]any{map[string]any{"port": 1.5}}, []any{map[string]any{"port": -1, "more": "unknown"}}, []any{map[string]any{"port": "1"}}, []any{map[string]any{"name": 1}},
		[]any{map[string]any{}}, []any{[]any{}}, map[string]any{"port": 1}, []any{map[string]any{"port": 1e30}},
	}
	steps := []any{
		[]any{map[string]any{"started_at": "yesterday"}}, []any{map[string]any{"started_at": 1}}, []any{map[string]any{"attempts": "1"}},
		[]any{map[string]any{"finished_at": "2026-01-02T03:04:05"}}, []any{map[string]any{"name": 1}}, []any{map[string]any{"number": 1e30}},
	}
	odd := time.FixedZone("", 20700)
	for range 400 {
		m := map[string]string{}
		for range r.IntN(4) {
			m[word()] = word()
		}
		maps = append(maps, m)
		var all []fleet.Endpoint
		for range r.IntN(3) {
			all = append(all, fleet.Endpoint{Port: r.IntN(70000), Protocol: fleet.Protocol(word()), Name: word(), Address: word()})
		}
		lists = append(lists, all)
		var done []fleet.StepDone
		for range r.IntN(3) {
			at := time.Unix(r.Int64N(1<<32), r.Int64N(1e6)*1000)
			done = append(done, fleet.StepDone{Name: word(), StartedAt: at.UTC(), FinishedAt: at.In(odd), Number: r.IntN(9), Attempts: r.IntN(9)})
		}
		steps = append(steps, done)
	}
	for _, text := range printed(t, s, maps) {
		same(t, decodeTexts, text)
	}
	for _, text := range printed(t, s, lists) {
		same(t, endpoints, text)
	}
	for _, text := range printed(t, s, steps) {
		same(t, stepsDone, text)
	}
}

func endpoints(b []byte) ([]fleet.Endpoint, error) { return decodeArray(b, setEndpoint) }

func stepsDone(b []byte) ([]fleet.StepDone, error) { return decodeArray(b, setStep) }

// same requires that decode does with a text, and with its beginnings, as encoding/json does.
func same[T any](t *testing.T, decode func([]byte) (T, error), text string) {
	t.Helper()
	for n := range len(text) + 1 {
		part := []byte(text[:n])
		var want T
		wrong := (jsonText{part}).into(&want)
		got, err := decode(part)
		require.Equal(t, wrong != nil, err != nil, "%q: %v", part, err)
		if err == nil {
			require.Equal(t, want, got, "%q", part)
		}
	}
}

// What is common goes by hand.
func TestPlainJSONIsDecodedByHand(t *testing.T) {
	t.Parallel()
	texts := printed(t, newStore(t), []any{map[string]string{"GREETING": "hello", "MODE": "é"},
		[]fleet.Endpoint{{Port: 80, Protocol: fleet.ProtocolHTTP, Name: "web", Address: "10.0.0.1:80"}},
		[]fleet.StepDone{{Name: "prepare", Number: 1, Attempts: 1}}})
	rest, ok := plainObject(texts[0], func(_, _ string, quoted bool) bool { return quoted })
	require.True(t, ok && rest == "", texts[0])
	rest, ok = plainObject(texts[1][1:], func(name, value string, quoted bool) bool { return setEndpoint(&fleet.Endpoint{}, name, value, quoted) })
	require.True(t, ok && rest == "]", texts[1])
	rest, ok = plainObject(texts[2][1:], func(name, value string, quoted bool) bool { return setStep(&fleet.StepDone{}, name, value, quoted) })
	require.True(t, ok && rest == "]", texts[2])
}
