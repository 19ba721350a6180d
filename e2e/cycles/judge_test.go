package cycles

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// findings are what came of all requests.
type findings struct {
	acknowledged, later, during int
	lost, twice                 int
	intact                      bool
	// bad are requests that were neither acknowledged nor refused as documented.
	bad []string
	// held is how long those took that came during a transition, in order.
	held []time.Duration
}

// judge compares what was answered with what is on the disk. all are the requests
// of the whole test, sent those that are counted.
func judge(all, sent []visit, cycles []cycle, ids []string, last tally) findings {
	f := findings{intact: last.Count == int64(len(ids))}
	onDisk := map[string]int{}
	for _, id := range ids {
		onDisk[id]++
		if onDisk[id] == 2 {
			f.twice++
		}
	}
	for _, v := range all {
		if v.acknowledged() {
			if onDisk[v.id] == 0 {
				f.lost++
			}
			f.intact = f.intact && v.Run == last.Run
		}
	}
	transitions := between(cycles, sent)
	for _, v := range sent {
		switch {
		case v.acknowledged():
			f.acknowledged++
		case v.later:
			f.later++
		default:
			f.bad = append(f.bad, v.String())
		}
		if slices.ContainsFunc(transitions, func(t [2]time.Time) bool { return !v.sent.Before(t[0]) && v.sent.Before(t[1]) }) {
			f.during++
			f.held = append(f.held, v.answered.Sub(v.sent))
		}
	}
	slices.Sort(f.held)
	return f
}

// between are the transitions: from when a hibernation was asked for until the
// first answer after it slept.
func between(cycles []cycle, visits []visit) [][2]time.Time {
	var answers []time.Time
	for _, v := range visits {
		if v.acknowledged() {
			answers = append(answers, v.answered)
		}
	}
	slices.SortFunc(answers, time.Time.Compare)
	var all [][2]time.Time
	for _, c := range cycles {
		n, _ := slices.BinarySearchFunc(answers, c.asleep, time.Time.Compare)
		if n < len(answers) {
			all = append(all, [2]time.Time{c.asked, answers[n]})
		}
	}
	return all
}

func (f findings) print(r run, sent int, took time.Duration) {
	percent := 100 * float64(f.during) / float64(max(1, sent))
	intact := 0
	if f.intact {
		intact = 1
	}
	fmt.Printf("cycles.count %d cycles\ncycles.failed %d cycles\ncycles.requests %d requests\ncycles.rate %.0f 1/s\n",
		len(r.cycles), len(r.failures), sent, float64(sent)/took.Seconds())
	fmt.Printf("cycles.acknowledged %d requests\ncycles.refused_for_now %d requests\ncycles.failed_requests %d requests\ncycles.lost %d requests\ncycles.twice %d requests\n",
		f.acknowledged, f.later, len(f.bad), f.lost, f.twice)
	fmt.Printf("cycles.during_transition_percent %.1f %%\ncycles.counter_intact %d bool\ncycles.seconds_each %.2f s\n", percent, intact, took.Seconds()/float64(max(1, len(r.cycles))))
	if n := len(f.held); n > 0 {
		fmt.Printf("cycles.held_p50_ms %d ms\ncycles.held_p99_ms %d ms\n", f.held[n/2].Milliseconds(), f.held[n*99/100].Milliseconds())
	}
}

// TestJudge: each thing that can go wrong is seen.
func TestJudge(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	good := func(id string, sent, answered int) visit {
		return visit{id: id, sent: at(sent), answered: at(answered), status: 201, tally: tally{Run: "a"}}
	}
	visits := []visit{good("one", 1, 2), good("two", 4, 9), good("three", 10, 11)}
	cycles := []cycle{{asked: at(3), asleep: at(6)}}
	f := judge(visits, visits, cycles, []string{"one", "two", "three"}, tally{"a", 3})
	require.Equal(t, findings{acknowledged: 3, during: 1, intact: true, held: []time.Duration{5 * time.Second}}, f)

	f = judge(visits, visits, cycles, []string{"one", "one", "three"}, tally{"a", 3})
	require.Equal(t, 1, f.lost)
	require.Equal(t, 1, f.twice)
	require.False(t, judge(visits, visits, cycles, []string{"one", "two", "three"}, tally{"b", 3}).intact, "it has been booted")
	require.False(t, judge(visits, visits, cycles, []string{"one", "two", "three"}, tally{"a", 2}).intact, "it has forgotten one")
	bad := []visit{{id: "x", status: 502}, {id: "y", status: 503, later: true}, {id: "z", err: errors.New("broken off")}}
	f = judge(bad, bad, nil, nil, tally{})
	require.Len(t, f.bad, 2)
	require.Equal(t, 1, f.later)
}
