package sim

import (
	"errors"
	"math"
	"strings"
	"time"
)

// Span is how long something takes: from Min to Max, evenly, or where P50 is
// set, log-normally with that median and 99th percentile. The zero value is no time at all.
type Span struct{ Min, Max, P50, P99 time.Duration }

// p99z is the 99th percentile of the standard normal distribution.
const p99z = 2.3263478740408408

// maxSpan bounds the tail of a log-normal span, in 99th percentiles.
const maxSpan = 10

// ParseSpan reads "20ms", "10ms..50ms" or "p50=20ms,p99=200ms".
func ParseSpan(text string) (Span, error) {
	malformed := errors.New("want a duration (20ms), a range (10ms..50ms) or percentiles (p50=20ms,p99=200ms)")
	if low, high, isRange := strings.Cut(text, ".."); isRange {
		from, err1 := parseDuration(low)
		to, err2 := parseDuration(high)
		if err1 != nil || err2 != nil || from > to {
			return Span{}, malformed
		}
		return Span{Min: from, Max: to}, nil
	}
	if strings.Contains(text, "=") {
		var s Span
		for part := range strings.SplitSeq(text, ",") {
			name, value, _ := strings.Cut(part, "=")
			d, err := parseDuration(value)
			if err != nil || d == 0 {
				return Span{}, malformed
			}
			switch strings.TrimSpace(name) {
			case "p50":
				s.P50 = d
			case "p99":
				s.P99 = d
			default:
				return Span{}, malformed
			}
		}
		if s.P50 == 0 || s.P99 < s.P50 {
			return Span{}, malformed
		}
		return s, nil
	}
	d, err := parseDuration(text)
	if err != nil {
		return Span{}, malformed
	}
	return Span{Min: d, Max: d}, nil
}

// Zero tells whether it is always no time.
func (s Span) Zero() bool { return s == Span{} }

// at returns the time that belongs to two independent draws from [0, 1).
func (s Span) at(u, v float64) time.Duration {
	if s.P50 == 0 {
		return s.Min + time.Duration(u*float64(s.Max-s.Min))
	}
	// Box and Muller's transform: a normal from two uniforms.
	z := math.Sqrt(-2*math.Log(1-u)) * math.Cos(2*math.Pi*v)
	sigma := math.Log(float64(s.P99)/float64(s.P50)) / p99z
	d := float64(s.P50) * math.Exp(sigma*z)
	return time.Duration(math.Min(d, maxSpan*float64(s.P99)))
}
