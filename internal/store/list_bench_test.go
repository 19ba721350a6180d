package store

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// BenchmarkListInstallations reads pages of 100 out of 10,000 and reports the median of one.
func BenchmarkListInstallations(b *testing.B) {
	w := newWorld(b)
	w.load(10000)
	ctx := context.Background()
	for _, page := range []struct {
		name, after string
	}{{"first", ""}, {"middle", "a0000000000000000000005000"}, {"last", "a0000000000000000000009889"}} {
		b.Run(page.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				views, err := w.ListInstallations(ctx, fleet.InstallationQuery{Page: fleet.Page{After: page.after, Limit: 100}})
				took = append(took, time.Since(began))
				require.NoError(b, err)
				require.Len(b, views, 100)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50_ms")
		})
	}
}
