package gateway

import (
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

// door is what stands between visitors and one installation. It is open,
// closing (a Quiet is under way), or has somebody waking the installation; what
// it is asleep by is the machine's condition, which is looked at anew each time.
type door struct {
	g  *Gateway
	id fleet.InstallationID
	// meters count the bytes of visitors whose visits keep the installation awake,
	// and of the others.
	meters [2]wire.Meter

	mu sync.Mutex
	// gone: it was taken out of the gateway; whoever has it looks for another.
	gone bool
	// open counts the passes that have not ended.
	open [kinds]int64
	held int
	// generation rises where kept connections to the machine are worth nothing any more.
	generation uint64
	keyText    string
	keyOf      keyParts
	// breaks end what is open; they are made anew after they were closed.
	breaks  [2]chan struct{}
	closing *Quiet
	// releasing counts those who were held, were let through and have not been
	// answered; freed is closed when there is room for more, where somebody waits for that.
	releasing int
	freed     chan struct{}
	// drained is closed by the last one who leaves, where somebody waits for that.
	drained chan struct{}

	waking *waking
	// failures is how many wakes have failed one after another; before retryAt
	// none is tried again, and failure is what visitors are answered.
	failures int
	retryAt  time.Time
	failure  *refusal
	// budget is what is left of the wakes, at perHour.
	budget  *rate.Limiter
	perHour int

	requests, wakes, failed int64
	told                    totals
	toldAt                  time.Time
}

// kind says what a pass is: bit 0, its visitor does not keep the installation
// awake; bit 1, it may last (upgraded connections, plain TCP).
type kind int

const kinds = 4

func kindOf(idle, lasts bool) (k kind) {
	if idle {
		k |= 1
	}
	if lasts {
		k |= 2
	}
	return k
}

func (k kind) meter() int { return int(k & 1) }
func (k kind) lasts() int { return int(k >> 1) }

func newDoor(g *Gateway, id fleet.InstallationID) *door {
	d := &door{g: g, id: id, toldAt: time.Now()}
	for i := range d.breaks {
		d.breaks[i] = make(chan struct{})
	}
	return d
}

// keyParts name one run of a machine.
type keyParts struct {
	instance   fleet.InstanceID
	run        string
	generation uint64
}

// key names the machine in this run of it, for kept connections. The lock is held.
func (d *door) key(route Route, run string) string {
	if of := (keyParts{route.InstanceID, run, d.generation}); d.keyText == "" || d.keyOf != of {
		d.g.closeIdle(d.keyText)
		d.keyOf = of
		d.keyText = string(d.id) + "/" + string(of.instance) + "/" + of.run + "/" + strconv.FormatUint(of.generation, 10)
	}
	return d.keyText
}

// try lets a visitor in, says why not, or returns what is to be waited for
// before it is tried again.
func (d *door) try(v *visit) (pass *wire.Pass, until <-chan struct{}, why *refusal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone || v.entry.replaced.Load() {
		return nil, atOnce, nil
	}
	v.barred = v.entry.rules.forbid(v.head)
	if q := d.closing; q != nil {
		if v.barred == "" {
			q.arrive()
		}
		v.waitsFor = expectation{begun: q.begun}
		return nil, q.released, nil
	}
	route := v.entry.route
	c := d.g.condition(route, v.head.Port)
	if c.standing == serving {
		if v.crowds() && d.releasing >= releaseAtOnce {
			if d.freed == nil {
				d.freed = make(chan struct{})
			}
			return nil, d.freed, nil
		}
		return d.pass(v, c), nil, nil
	}
	if v.barred != "" {
		return nil, nil, barred(v, route)
	}
	if c.standing == resting || d.g.o.Waker == nil {
		return nil, nil, refusalOf(route, v.host)
	}
	return d.wakeFor(v, c)
}

// pass lets a visitor through. The lock is held.
func (d *door) pass(v *visit, c condition) *wire.Pass {
	k := kindOf(v.barred != "", v.lasts)
	d.open[k]++
	d.requests++
	d.g.open.Add(1)
	meter := &d.meters[k.meter()]
	begin, now, isHTTP := v.begin, v.begin, v.head.Port == 0
	if v.held {
		now = time.Now()
	}
	meter.LastNano.Store(now.UnixNano())
	answered := func() {}
	if v.crowds() {
		d.releasing++
		answered = sync.OnceFunc(d.settled)
	}
	pass := &wire.Pass{
		Key: d.key(v.entry.route, c.run), Address: c.address, Meter: meter, Break: d.breaks[k.lasts()],
		Done: func(status int, _ error) {
			now := time.Now()
			d.leave(k, now)
			answered()
			if isHTTP {
				d.g.metrics.Request(status, now.Sub(begin))
			}
		},
	}
	if v.crowds() {
		pass.Answered = answered
	}
	if v.woke {
		pass.Answered = func() {
			answered()
			d.g.metrics.Phase(PhaseFirstByte, time.Since(now))
			d.g.metrics.Phase(PhaseAll, time.Since(begin))
		}
	}
	return pass
}

// releaseAtOnce is how many requests that were held are asked of a machine at once,
// until it has begun to answer them: all that may wait would be too many for a
// small one that has just woken up.
const releaseAtOnce = 64

// crowds tells whether a visitor is one of many who were let go together.
func (v *visit) crowds() bool { return v.held && !v.lasts }

// settled counts out one who was held and has been answered, or is gone. Who waits
// is let go in portions, since all of them try again.
func (d *door) settled() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.releasing--
	if d.freed != nil && d.releasing <= releaseAtOnce/2 {
		close(d.freed)
		d.freed = nil
	}
}

// leave counts out one who was let through.
func (d *door) leave(k kind, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[k]--
	d.g.open.Add(-1)
	d.meters[k.meter()].LastNano.Store(now.UnixNano())
	if d.drained != nil && d.inFlight() == 0 {
		close(d.drained)
		d.drained = nil
	}
}

// inFlight is how many passes have not ended. The lock is held.
func (d *door) inFlight() (n int64) {
	for _, open := range d.open {
		n += open
	}
	return n
}

// keepingAwake is how many of them keep the installation awake. The lock is held.
func (d *door) keepingAwake() int64 {
	return d.open[kindOf(false, false)] + d.open[kindOf(false, true)]
}

// breakOff ends what is open: all of it, or what lasts only. The lock is held.
func (d *door) breakOff(which int) {
	select {
	case <-d.breaks[which]: // already
	default:
		close(d.breaks[which])
	}
}

// look ends what is open to a machine that has ended: one that was killed says
// goodbye to nobody. Only the run that was passed to counts, since what the host says
// may be from before a wake.
func (d *door) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone || d.inFlight() == 0 || d.g.o.Local == nil {
		return
	}
	here, ok := d.g.o.Local.Here(d.keyOf.instance)
	if !ok || !here.Off || here.Run != d.keyOf.run {
		return
	}
	for which := range d.breaks {
		d.breakOff(which)
	}
	d.mend()
}

// mend has what comes from now on be new: new breaks, no kept connections. The lock is held.
func (d *door) mend() {
	d.generation++
	for i := range d.breaks {
		select {
		case <-d.breaks[i]:
			d.breaks[i] = make(chan struct{})
		default:
		}
	}
}
