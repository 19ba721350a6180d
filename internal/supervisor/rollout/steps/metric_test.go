package steps

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestQuery(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]float64{
		`{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"0.5"]},{"metric":{},"value":[1,"2.25"]}]}}`: 2.25,
		`{"status":"success","data":{"resultType":"scalar","result":[1435781451.781,"7"]}}`:                                               7,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/prefix/api/v1/query" || r.URL.Query().Get("query") != `rate(x[5m]) > 1` {
				http.Error(w, "unexpected request", http.StatusBadRequest)
				return
			}
			_, _ = w.Write([]byte(answer))
		}))
		v, err := Query(t.Context(), fleet.MetricGate{URL: srv.URL + "/prefix/", Query: `rate(x[5m]) > 1`})
		srv.Close()
		require.NoError(t, err)
		require.InDelta(t, want, v, 0)
	}
}

func TestQueryThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		`{"status":"success","data":{"resultType":"vector","result":[]}}`,
		`{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"NaN"]}]}}`,
		`{"status":"success","data":{"resultType":"matrix","result":[]}}`,
		`{"status":"success","data":{"resultType":"vector","result":[{"value":[1,2]}]}}`,
		`{"status":"error","error":"parse error"}`, `<html>`, ``,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		_, err := Query(t.Context(), fleet.MetricGate{URL: srv.URL, Query: "x"})
		srv.Close()
		require.Error(t, err, answer)
	}
	_, err := Query(t.Context(), fleet.MetricGate{URL: "http://127.0.0.1:1", Query: "x"})
	require.Error(t, err)
}
