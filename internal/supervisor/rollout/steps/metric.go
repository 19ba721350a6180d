package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// metricTimeout bounds one query, and metricAnswer its answer.
const (
	metricTimeout = 10 * time.Second
	metricAnswer  = 1 << 20
)

// Query asks a Prometheus server for the value of an instant query now. Of
// several series it returns the highest. An empty answer is an error: it says
// nothing. The API is https://prometheus.io/docs/prometheus/latest/querying/api/.
func Query(ctx context.Context, gate fleet.MetricGate) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, metricTimeout)
	defer cancel()
	target := strings.TrimRight(gate.URL, "/") + "/api/v1/query?" + url.Values{"query": {gate.Query}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, fmt.Errorf("asking for the metric: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("asking for the metric: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, metricAnswer))
	if err != nil {
		return 0, fmt.Errorf("reading the metric: %w", err)
	}
	var answer struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		return 0, fmt.Errorf("asking for the metric: %s answered %s %s", gate.URL, resp.Status, answer.Error)
	}
	return highest(answer.Data.ResultType, answer.Data.Result)
}

// highest reads a scalar, or the highest value of a vector. A sample is a pair of
// a time and the value as text.
func highest(kind string, result json.RawMessage) (float64, error) {
	var samples [][2]any
	switch kind {
	case "scalar":
		samples = make([][2]any, 1)
		if err := json.Unmarshal(result, &samples[0]); err != nil {
			return 0, fmt.Errorf("reading the metric: %w", err)
		}
	case "vector":
		var series []struct {
			Value [2]any `json:"value"`
		}
		if err := json.Unmarshal(result, &series); err != nil {
			return 0, fmt.Errorf("reading the metric: %w", err)
		}
		for _, s := range series {
			samples = append(samples, s.Value)
		}
	default:
		return 0, fmt.Errorf("reading the metric: the query gives a %s, and not an instant vector or a scalar", kind)
	}
	most := math.Inf(-1)
	for _, s := range samples {
		text, _ := s[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the metric: %w", err)
		}
		most = max(most, v) // NaN where one is
	}
	if len(samples) == 0 || math.IsNaN(most) {
		return 0, fmt.Errorf("reading the metric: the query has no value now")
	}
	return most, nil
}
