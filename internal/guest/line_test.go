package guest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is read and written by hand is what encoding/json reads and writes.
func TestLinesAreJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []Command{
		{Verb: VerbWake, ID: 7, Nanos: time.Now().UnixNano(), Seed: make([]byte, 32)},
		{Verb: VerbWake, ID: -1, Nanos: -5, Seed: []byte{1}},
		{Verb: VerbWake, ID: 7},
		{Verb: VerbWake, ID: 7, Time: time.Unix(5, 0).UTC(), Seed: []byte{1, 2}},
		{Verb: VerbSetClock, ID: 7, Time: time.Unix(5, 0).UTC()},
		{Verb: VerbPing},
	} {
		line, err := json.Marshal(c)
		require.NoError(t, err)
		got, err := DecodeCommand(line)
		require.NoError(t, err)
		require.Equal(t, c, got)
		_, byHand := decodeWake(line)
		require.Equal(t, c.Verb == VerbWake && c.Nanos != 0 && c.Time.IsZero(), byHand, "%s", line)
	}
	for _, bad := range []string{
		`{"verb":"wake","id":`, `{"verb":"wake","id":1,"nanos":2,"seed":"!"}`, `{"verb":"wake","id":1,"nanos":2,"seed":"AA=="`,
		`{"verb":"wake","id":1,"nanos":99999999999999999999,"seed":"AA=="}`, `{"verb":"wake","id":1,"nanos":2,"seed":"AA=="}}`, `x`, ``,
	} {
		_, err := DecodeCommand([]byte(bad))
		require.Error(t, err, bad)
	}
	for _, m := range []Message{{Event: EventDone, ID: 5}, {Event: EventDone}, {Event: EventDone, ID: 5, Error: "x"}, {Event: EventReady, Restarts: 2}} {
		line, err := EncodeMessage(m)
		require.NoError(t, err)
		want, err := json.Marshal(m)
		require.NoError(t, err)
		require.Equal(t, string(want)+"\n", string(line))
	}
}
