package api

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// Whatever comes in, the decoder either refuses it as the caller's fault, or
// has understood it whole: what it decoded encodes to something that decodes
// to the same again.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{
		createAcme, `{}`, `{"env":{"A":null}}`, `{"name":"a","name":"b"}`, `{"Name":"a"}`, `[1,2]`, `{"env":{"A":["x"]}}`,
		`{"memory_mib":1e3}`, `{"memory_mib":-0}`, "\xff", `{"name":"\ud800"}`, `{"a":{"b":{"c":[[[[[]]]]]}}}`, `{"env":{},}`, `{"" : ""}`,
		wholeSpec, `{"rings":[{"name":"a","labels":{"x":null}}]}`, `{"rings":[{"name":"a"},{"name":"a","name":"b"}]}`, `{"rings":[[]]}`, `{"metric":[]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var in client.CreateInstallation
		m, err := decodeJSON(body, &in)
		var up client.UpdateInstallation
		if _, upErr := decodeJSON(body, &up); upErr != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(upErr))
		}
		var roll client.CreateRollout
		if m, err := decodeJSON(body, &roll); err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
		} else if _, err := rolloutSpec(roll, m); err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
		}
		if err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
			return
		}
		for path := range m.null {
			require.True(t, m.present[path])
		}
		if err := checkCreate(&in, m); err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
			return
		}
		again, err := json.Marshal(in)
		require.NoError(t, err)
		var same client.CreateInstallation
		_, err = decodeJSON(again, &same)
		require.NoError(t, err)
		once, err := json.Marshal(same)
		require.NoError(t, err)
		require.Equal(t, string(again), string(once))
	})
}
