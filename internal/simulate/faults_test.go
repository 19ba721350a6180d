package simulate

import (
	"time"

	"dormouse/internal/fleet"
)

// fault is something that the scheduler breaks, so and so often in a seed.
type fault struct {
	name string
	// times is how often in a whole seed; next the number of operations at which it is due.
	times, next int
	struck      int
	// strike breaks it; false where nothing fits now.
	strike func(all []*parked) bool
}

func (s *simulation) plan() {
	crashes := s.size.crashes + s.rng.IntN(s.size.crashes/2+1)
	s.faults = []*fault{
		{name: "crash", times: crashes, strike: s.crash},
		{name: "pause", times: 8, strike: s.pause},
		{name: "cut-before", times: 15, strike: func(all []*parked) bool { return s.cutOne(all, false) }},
		{name: "cut-after", times: 15, strike: func(all []*parked) bool { return s.cutOne(all, true) }},
		{name: "postgres-restart", times: 4, strike: s.restartPostgres},
		{name: "clock-database", times: 3, strike: s.jumpDatabase},
		{name: "clock-process", times: 3, strike: s.jumpProcess},
		{name: "program-ends", times: 10, strike: s.endProgram},
		{name: "machine-lost", times: 4, strike: s.loseMachine},
		{name: "all-restart", times: 1, strike: s.crashAll},
	}
	for _, f := range s.faults {
		f.next = s.rng.IntN(s.size.operations/f.times + 1)
	}
}

// strike breaks what is due.
func (s *simulation) strike(all []*parked) bool {
	for _, f := range s.faults {
		if f.next > s.world.operations() || f.struck >= 2*f.times || !f.strike(all) {
			continue
		}
		f.struck++
		f.next += 1 + s.rng.IntN(2*s.size.operations/f.times)
		return true
	}
	return false
}

// crash kills the process of a call that is parked: before it was made, in its
// middle, or when it was done and the answer is on its way.
func (s *simulation) crash(all []*parked) bool {
	if len(all) == 0 {
		return false
	}
	x := all[s.rng.IntN(len(all))]
	when := "before"
	switch {
	case x.stage == atStatement:
		when = "at-" + x.at.statement
	case x.stage == answered:
		when = "after"
	case x.job != nil && s.rng.IntN(2) == 0:
		s.advance(x, whole)
		when = "after"
	}
	s.note("%s crashes %s %s", x.by.name, when, s.label(x))
	s.hit("crash-"+when, x.step)
	p := x.by
	s.kill(p, s.rng.IntN(2) == 0)
	s.reborn(p, time.Duration(s.rng.ExpFloat64()*float64(8*time.Second)), s.rng.IntN(5) > 0)
	return true
}

// crashAll kills all processes at once.
func (s *simulation) crashAll([]*parked) bool {
	for _, p := range s.alive() {
		s.note("%s crashes with all others", p.name)
		s.kill(p, s.rng.IntN(2) == 0)
		s.reborn(p, time.Duration(s.rng.ExpFloat64()*float64(8*time.Second)), s.rng.IntN(2) > 0)
	}
	return true
}

// kill ends a process: none of its calls returns to it, those within a
// transaction are rolled back, or committed where done and the commit was sent.
func (s *simulation) kill(p *process, done bool) {
	s.mu.Lock()
	p.dead = true
	s.mu.Unlock()
	s.crashes++
	p.cancel()
	for _, x := range s.all() {
		if x.by != p {
			continue
		}
		s.cut(x, done)
		s.answer(x, errDead)
	}
}

// reborn starts a process in the place of one that is dead. One on the same machine knows itself.
func (s *simulation) reborn(p *process, after time.Duration, same bool) {
	worker := p.worker
	if !same {
		worker = fleet.WorkerID(fleet.NewID())
	}
	s.at(after, func() { s.start(p.slot, worker) })
}

// pause stops the process of a parked call for a while, often past its leases.
func (s *simulation) pause(all []*parked) bool {
	if len(all) == 0 {
		return false
	}
	x := all[s.rng.IntN(len(all))]
	d := time.Duration((1 + 60*s.rng.Float64()) * float64(time.Second))
	x.by.pausedUntil = time.Now().Add(d)
	s.note("%s is stopped for %v before %s", x.by.name, d, s.label(x))
	s.hit("pause", x.step)
	s.at(d, func() {})
	return true
}

// cutOne breaks the connection of a call of the store, before its first
// statement or after its commit.
func (s *simulation) cutOne(all []*parked, after bool) bool {
	var fit []*parked
	for _, x := range all {
		if x.job != nil && x.stage == waiting {
			fit = append(fit, x)
		}
	}
	if len(fit) == 0 {
		return false
	}
	x := fit[s.rng.IntN(len(fit))]
	s.note("%s loses its connection, after=%v", s.label(x), after)
	s.begin(x, stepwise)
	for after && x.stage == atStatement && x.at.statement != "COMMIT" {
		s.advance(x, stepwise)
	}
	if x.stage == atStatement {
		v, fault := cutBefore, "cut-before"
		if after {
			v, fault = cutAfter, "cut-after"
		}
		s.hit(fault, x.step)
		x.at.wire.verdict <- v
		s.settle(x, lockPatience)
	}
	return true
}

// restartPostgres breaks all connections; for a while nobody can connect.
func (s *simulation) restartPostgres([]*parked) bool {
	s.note("Postgres restarts")
	s.db.down.Store(true)
	for _, x := range s.all() {
		if x.lane != nil {
			s.hit("postgres-restart", x.step)
			s.cut(x, s.rng.IntN(2) == 0)
		}
	}
	s.db.outside(func() {
		for _, l := range s.db.lanes {
			l.cutIdle()
		}
	})
	s.at(time.Duration(s.rng.ExpFloat64()*float64(3*time.Second)), func() {
		s.note("Postgres is back")
		s.db.down.Store(false)
	})
	return true
}

// jump is some minutes forth or back, seldom many.
func (s *simulation) jump() time.Duration {
	d := time.Duration(s.rng.NormFloat64() * float64(time.Minute))
	if s.rng.IntN(8) == 0 {
		d *= 20
	}
	return d
}

func (s *simulation) jumpDatabase([]*parked) bool {
	d := s.jump()
	s.databaseOffset += d
	s.note("the database's clock jumps by %v", d)
	s.hit("clock-database", "all")
	return true
}

func (s *simulation) jumpProcess([]*parked) bool {
	alive := s.alive()
	if len(alive) == 0 {
		return false
	}
	p, d := alive[s.rng.IntN(len(alive))], s.jump()
	p.offset += d
	s.note("the clock of %s jumps by %v", p.name, d)
	s.hit("clock-process", "all")
	return true
}

// endProgram has the program of a machine end by itself.
func (s *simulation) endProgram([]*parked) bool {
	machines, _ := s.sim.Inventory(s.world.cluster)
	if len(machines) == 0 {
		return false
	}
	m := machines[s.rng.IntN(len(machines))]
	exit := []fleet.Exit{
		{Reason: fleet.ReasonProgramExited}, {Reason: fleet.ReasonProgramExited, Code: 3}, {Reason: fleet.ReasonCrashLoop, Code: 1},
		{Reason: fleet.ReasonGuestPanic, Code: -1}, {Reason: fleet.ReasonHostLost, Code: -1},
	}[s.rng.IntN(5)]
	if m.Power == fleet.PowerOff || s.sim.SetExit(m.ID, exit) != nil {
		return false
	}
	s.note("machine %s ends: %s %d", short(m.ID), exit.Reason, exit.Code)
	s.hit("program-ends", "all")
	s.world.dirty.Store(true)
	return true
}

// loseMachine takes a machine away behind everybody's back.
func (s *simulation) loseMachine([]*parked) bool {
	machines, _ := s.sim.Inventory(s.world.cluster)
	if len(machines) == 0 {
		return false
	}
	m := machines[s.rng.IntN(len(machines))]
	if m.Power != fleet.PowerOn || s.sim.Lose(s.world.cluster, m.ID) != nil {
		return false
	}
	s.note("machine %s is lost", short(m.ID))
	s.hit("machine-lost", "all")
	return true
}
