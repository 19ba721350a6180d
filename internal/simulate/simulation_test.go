package simulate

import (
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/engine"
)

// simulation is one seed: what is in the bubble, and the scheduler over it.
type simulation struct {
	t    *testing.T
	seed uint64
	size size
	// rng is the scheduler's alone; all else that is drawn is a hash (see hash).
	rng  *rand.Rand
	draw draw
	db   *database
	// sim is the simulator, provider the way to it, and bug what is planted before it and the store.
	sim      *sim.Provider
	provider provider
	bug      *bug

	mu        sync.Mutex // guards what follows, up to the next gap
	parked    []*parked
	parks     int
	processes []*process
	steps     map[fleet.OperationID]string

	arrived chan struct{}
	running sync.WaitGroup
	lives   int
	// agenda holds what is to be done at a time.
	agenda         []appointment
	nextSweep      time.Time
	nextTend       int
	databaseOffset time.Duration
	faults         []*fault
	faultsOver     bool
	turns, crashes int
	clients        clients
	world          *world
	coverage       coverage
	trace          trace
	logTo          io.Writer
}

// size is how much is done in a seed.
type size struct{ installations, operations, crashes int }

type appointment struct {
	at   time.Time
	what func()
}

// draw is what differs between seeds besides the order.
type draw struct {
	processes, slots int
	healthDeadline   time.Duration
	// idle is how often time passes though something could go on, interleave how
	// often a call of the store is run statement by statement, keep how often an
	// answer waits for a turn of its own, signals how often a signal arrives, and slow how
	// often a call of the provider travels for long.
	idle, interleave, keep, signals, slow float64
	// hang is how often the provider does what it is told and does not answer.
	hang float64
	// patient is how much less likely a claim or a commit begins than anything else
	// goes on: more is claimed and written at once.
	patient float64
	// pace is how long a turn takes on average: where turns take time, work piles up.
	pace time.Duration
	// lazy is a slot whose process rarely gets its turn; -1 is none.
	lazy     int
	settings map[string]string
}

func newDraw(r *rand.Rand) draw {
	d := draw{
		processes: 2 + r.IntN(3), slots: []int{8, 32, 64}[r.IntN(3)], healthDeadline: time.Duration(20+r.IntN(100)) * time.Second,
		idle: 0.02 * r.Float64(), interleave: 0.06 * r.Float64(), keep: 0.3 * r.Float64(), signals: 0.3 + 0.7*r.Float64(), slow: 0.02 * r.Float64(),
		hang: 0.01 * r.Float64(), patient: 0.01 + 0.1*r.Float64(), lazy: -1,
		pace: time.Duration(r.IntN(4000)) * time.Microsecond,
	}
	if r.IntN(3) == 0 {
		d.lazy = r.IntN(d.processes)
	}
	boot := 1 + r.IntN(4000)
	d.settings = map[string]string{
		"hosts": fmt.Sprint(1 + r.IntN(3)), "memory_mib": "40000", "disk_mib": "200000", "seed": fmt.Sprint(r.Int32()),
		"boot_time": fmt.Sprintf("%dms..%dms", boot, boot+1+r.IntN(3000)), "stop_time": fmt.Sprintf("1ms..%dms", 2+r.IntN(1500)),
	}
	if r.IntN(2) == 0 {
		d.settings["latency"] = fmt.Sprintf("1us..%dms", 1+r.IntN(100))
	}
	for _, f := range sim.Faults() {
		if r.IntN(3) > 0 && f != sim.FaultTimeoutAfter {
			d.settings["fault."+string(f)] = fmt.Sprintf("%.4f", 0.03*r.Float64())
		}
	}
	return d
}

// hash draws a number in [0, 1) that depends on the seed and the words, so that
// it does not matter which of several goroutines asks first.
func (s *simulation) hash(words ...string) float64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %s", s.seed, strings.Join(words, "\x00"))
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return float64((x^x>>31)>>11) / (1 << 53)
}

// delay is how long a call of the provider travels.
func (s *simulation) delay(what string) time.Duration {
	at := fmt.Sprint(time.Now().UnixNano())
	if s.faultsOver || s.hash("slow", what, at) >= s.draw.slow {
		return 0
	}
	return time.Duration(s.hash("travel", what, at)*90*float64(time.Second)) + time.Microsecond
}

func (s *simulation) backend(real *store.Store) backend {
	if s.bug != nil && s.bug.store != nil {
		return s.bug.store(s, real)
	}
	return real
}

// turn lets one thing happen.
func (s *simulation) turn() {
	synctest.Wait()
	s.turns++
	s.keepAppointments()
	s.tend()
	synctest.Wait()
	s.world.look()
	all := s.candidates()
	if !s.faultsOver && s.strike(all) {
		return
	}
	if len(all) == 0 || s.rng.Float64() < s.draw.idle {
		s.pass(len(all) == 0)
		return
	}
	x := s.choose(all)
	m := whole
	if x.job != nil && x.stage == waiting && !s.faultsOver && s.rng.Float64() < s.draw.interleave {
		m = stepwise
	}
	s.note("%s %s", s.label(x), []string{"", "stepwise"}[m])
	s.advance(x, m)
	if x.stage == answered && x.job != nil && s.rng.Float64() >= s.draw.keep {
		s.answer(x, nil)
	}
	if !s.faultsOver && s.draw.pace > 0 {
		time.Sleep(time.Duration(s.rng.ExpFloat64() * float64(s.draw.pace)))
	}
}

// choose draws whose turn it is.
func (s *simulation) choose(all []*parked) *parked {
	weights, sum := make([]float64, len(all)), 0.0
	for i, x := range all {
		w := 1.0
		if x.what == engine.YieldClaim || strings.HasPrefix(x.what, engine.YieldGather) {
			w = s.draw.patient
		}
		if x.by.slot == s.draw.lazy && !s.faultsOver {
			w /= 20
		}
		weights[i] = w
		sum += w
	}
	at := s.rng.Float64() * sum
	for i, w := range weights {
		if at -= w; at < 0 {
			return all[i]
		}
	}
	return all[len(all)-1]
}

// pass lets time go on until something parks, or the next appointment.
func (s *simulation) pass(nothing bool) {
	d := 30 * time.Second
	if !nothing {
		d = time.Duration(s.rng.ExpFloat64() * float64(time.Second))
	}
	for _, a := range s.agenda {
		d = min(d, time.Until(a.at))
	}
	select { // of old
	case <-s.arrived:
	default:
	}
	timer := time.NewTimer(max(d, time.Microsecond))
	defer timer.Stop()
	select {
	case <-s.arrived:
	case <-timer.C:
	}
}

// at has something done when that much time has passed.
func (s *simulation) at(d time.Duration, what func()) {
	s.agenda = append(s.agenda, appointment{time.Now().Add(d), what})
}

func (s *simulation) keepAppointments() {
	var due []appointment
	rest := s.agenda[:0]
	for _, a := range s.agenda {
		if a.at.After(time.Now()) {
			rest = append(rest, a)
		} else {
			due = append(due, a)
		}
	}
	s.agenda = rest
	for _, a := range due {
		a.what()
	}
	for _, p := range s.alive() {
		if s.hasEnded(p) {
			s.note("%s ends by itself", p.name)
			s.kill(p, false)
			s.reborn(p, time.Second, true)
		}
	}
	if time.Now().After(s.nextSweep) {
		s.nextSweep = time.Now().Add(sweepEvery)
		s.lead()
	}
	// A connection on which nothing comes for so long is given up, as the store's dialer does.
	for _, x := range s.all() {
		if x.stage == blocked && time.Since(x.since) > 20*time.Second {
			s.note("%s has waited too long for its lock", s.label(x))
			s.cut(x, false)
		}
	}
}

func (s *simulation) hasEnded(p *process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.ended && !p.dead
}

// alive returns the processes that were not killed, in the order of their slots.
func (s *simulation) alive() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*process
	for _, p := range s.processes {
		if p != nil && !p.dead {
			out = append(out, p)
		}
	}
	return out
}

// lead has one process sweep: the first that is neither dead nor paused. A
// former leader may be in the middle of a pass still.
func (s *simulation) lead() {
	for _, p := range s.alive() {
		s.mu.Lock()
		sweeping := p.sweeping
		s.mu.Unlock()
		if !p.pausedUntil.After(time.Now()) {
			if !sweeping {
				s.sweep(p)
			}
			return
		}
	}
}

func (s *simulation) stepOf(id fleet.OperationID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if step, ok := s.steps[id]; ok {
		return step
	}
	return "engine"
}

func (s *simulation) fail(format string, args ...any) {
	s.world.broken("Harness", format, args...)
}

func (s *simulation) label(x *parked) string {
	return fmt.Sprintf("%s %s%s", x.by.name, x.what, []string{"", " at " + x.at.statement, " blocked", " answer"}[x.stage])
}
