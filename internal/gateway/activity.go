package gateway

import (
	"cmp"
	"context"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

const (
	// tellOpenAfter is how often an installation is told of that has something open.
	tellOpenAfter = time.Minute
	// forgetAfter is how long a door stays of which there is nothing to tell.
	forgetAfter = 2 * time.Hour
	// reportTimeout bounds one report.
	reportTimeout = 10 * time.Second
)

// Report takes what the gateway saw.
type Report interface {
	// Activity takes a batch: only of installations of which there is something
	// new, each with what is new since the last batch that was taken; what is open
	// is told at least once a minute. Where it returns an error, the same is told
	// again with the next batch.
	Activity(ctx context.Context, batch []fleet.Activity) error
}

// totals are what was counted since the gateway began.
type totals struct {
	requests, in, out, open int64
	last                    time.Time
}

// totals counts together. The lock is held.
func (d *door) totals() totals {
	t := totals{requests: d.requests, open: d.keepingAwake(), last: d.lastVisit()}
	for i := range d.meters {
		t.in += d.meters[i].In.Load()
		t.out += d.meters[i].Out.Load()
	}
	return t
}

// lastVisit is when somebody last began, ended or moved a byte whose visits keep
// the installation awake; zero is never.
func (d *door) lastVisit() time.Time {
	if nano := d.meters[0].LastNano.Load(); nano != 0 {
		return time.Unix(0, nano)
	}
	return time.Time{}
}

// news returns what is to be told of a door, and what will have been told with it.
func (d *door) news(now time.Time) (a fleet.Activity, all totals, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all = d.totals()
	if all == d.told && (all.open == 0 || now.Sub(d.toldAt) < tellOpenAfter) {
		return a, all, false
	}
	return fleet.Activity{
		InstallationID: d.id, Requests: all.requests - d.told.requests,
		BytesIn: all.in - d.told.in, BytesOut: all.out - d.told.out, Open: all.open, LastAt: all.last,
	}, all, true
}

// report tells what is new.
func (g *Gateway) report(ctx context.Context) error {
	now := time.Now()
	var batch []fleet.Activity
	told := make(map[*door]totals)
	for _, d := range g.allDoors() {
		a, all, ok := d.news(now)
		if !ok {
			g.forget(d, now)
			continue
		}
		batch = append(batch, a)
		told[d] = all
	}
	if len(batch) == 0 {
		return nil
	}
	slices.SortFunc(batch, func(a, b fleet.Activity) int { return cmp.Compare(a.InstallationID, b.InstallationID) })
	if g.o.Report != nil {
		ctx, cancel := context.WithTimeout(ctx, reportTimeout)
		defer cancel()
		if err := g.o.Report.Activity(ctx, batch); err != nil {
			return err
		}
	}
	for d, all := range told {
		d.mu.Lock()
		d.told, d.toldAt = all, now
		d.mu.Unlock()
	}
	return nil
}

// forget takes out a door at which nothing has happened for long.
func (g *Gateway) forget(d *door, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inFlight() > 0 || d.held > 0 || d.closing != nil || d.waking != nil || now.Sub(d.toldAt) < forgetAfter || now.Before(d.retryAt) ||
		d.totals() != d.told {
		return
	}
	d.gone = true
	delete(g.doors, d.id)
}

// keepReporting reports until ctx ends, and once more then.
func (g *Gateway) keepReporting(ctx context.Context) {
	failed := false
	for {
		more := wait(ctx, g.o.ReportEvery)
		err := g.report(context.WithoutCancel(ctx))
		if err != nil && !failed {
			g.log.WithError(err).Warn("activity can't be reported: it is kept and told later")
		}
		failed = err != nil
		if !more {
			return
		}
	}
}

// Traffic is what the gateway has seen of an installation since it began.
type Traffic struct {
	fleet.Activity
	Name string
	// Door is "open", "closing" (being kept from visitors) or "waking".
	Door string
	// Held visitors wait; InFlight ones were let in.
	Held, InFlight int64
	// Wakes were begun by visits; Failed of them led to nothing.
	Wakes, Failed int64
}

// Traffic returns what was seen of each installation, by its ID. One that
// nobody has visited for two hours is left out.
func (g *Gateway) Traffic() []Traffic {
	var all []Traffic
	for _, d := range g.allDoors() {
		all = append(all, d.traffic())
	}
	slices.SortFunc(all, func(a, b Traffic) int { return cmp.Compare(a.InstallationID, b.InstallationID) })
	return all
}

func (d *door) traffic() Traffic {
	e := d.g.book.known(d.id)
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.totals()
	seen := Traffic{
		Activity: fleet.Activity{InstallationID: d.id, Requests: t.requests, BytesIn: t.in, BytesOut: t.out, Open: t.open, LastAt: t.last},
		Door:     "open", Held: int64(d.held), InFlight: d.inFlight(), Wakes: d.wakes, Failed: d.failed,
	}
	if e != nil {
		seen.Name = e.route.Name
	}
	switch {
	case d.closing != nil:
		seen.Door = "closing"
	case d.waking != nil:
		seen.Door = "waking"
	}
	return seen
}
