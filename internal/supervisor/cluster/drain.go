package cluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// DrainStore is what a drain needs of the database.
type DrainStore interface {
	// LookAtDrain returns a host and who lies there: all, or of those known only.
	LookAtDrain(ctx context.Context, id fleet.HostID, known []fleet.InstallationID) (fleet.DrainLook, error)
}

// DrainOptions configure drains. Zero values take the defaults named here.
type DrainOptions struct {
	Store DrainStore
	// FirstBackoff is when a move that failed is tried again; it doubles with each
	// failure up to MaxBackoff (10 s, 5 minutes).
	FirstBackoff, MaxBackoff time.Duration
}

const (
	// drainLook is how soon a drain looks again while something is moved.
	drainLook = 200 * time.Millisecond
	// drainRest is how soon it looks again while it waits for room or for other work.
	drainRest = 2 * time.Second
	// totalKey is where a drain remembers how many installations it found.
	totalKey = "total"
)

// Drain moves everything away from a host: one step that looks, decides and
// begins moves, again and again until nothing is left there, or nothing that can
// be moved. What it knows is in the database, so that any process can go on with it.
func Drain(o DrainOptions) *engine.Workflow {
	if o.FirstBackoff <= 0 {
		o.FirstBackoff = 10 * time.Second
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 5 * time.Minute
	}
	d := &drains{DrainOptions: o, found: map[fleet.HostID]found{}}
	return &engine.Workflow{Kind: fleet.OperationDrain, Endless: true, Steps: []engine.Step{
		{Name: "move-installations", Run: d.advance, Timeout: 5 * time.Minute,
			Deadline: func(*fleet.Snapshot) time.Duration { return 100 * 365 * 24 * time.Hour }}, // each move has its own
	}}
}

// drains remembers who lay on the hosts that this process drains: nothing is
// added there, so that it is enough to look again at those that matter next.
type drains struct {
	DrainOptions
	mu    sync.Mutex
	found map[fleet.HostID]found
}

// found are the installations that a drain has to move, as they were last seen.
type found struct {
	operation fleet.OperationID
	members   []fleet.DrainMember
	// at is when all of them were looked at.
	at time.Time
}

const (
	// nearby is how many are looked at again besides those that are moving.
	nearby = 100
	// refreshAfter is how often all are looked at again at the most, and
	// refreshEach how much later for each of them: a hundred times what reading one costs.
	refreshAfter = 5 * time.Second
	refreshEach  = 10 * time.Millisecond
)

// next are those to look at again: who is moving, and whose turn may be near.
func (f found) next() []fleet.InstallationID {
	ids, left := []fleet.InstallationID{}, nearby
	for _, m := range f.members {
		moving := m.Progress() == fleet.DrainMoving
		if !moving && left == 0 {
			continue
		}
		if !moving {
			left--
		}
		ids = append(ids, m.InstallationID)
	}
	return ids
}

// merge replaces those that were asked for by what a look found of them.
func (f found) merge(asked []fleet.InstallationID, fresh []fleet.DrainMember) []fleet.DrainMember {
	again, now := make(map[fleet.InstallationID]bool, len(asked)), make(map[fleet.InstallationID]fleet.DrainMember, len(fresh))
	for _, id := range asked {
		again[id] = true
	}
	for _, m := range fresh {
		now[m.InstallationID] = m
	}
	merged := make([]fleet.DrainMember, 0, len(f.members))
	for _, m := range f.members {
		if again[m.InstallationID] {
			var here bool
			if m, here = now[m.InstallationID]; !here {
				continue
			}
		}
		merged = append(merged, m)
	}
	return merged
}

// look returns who lies on a host. That nobody does is believed only after a look at the whole cluster.
func (d *drains) look(ctx context.Context, host fleet.HostID, operation fleet.OperationID) (fleet.DrainLook, error) {
	d.mu.Lock()
	f := d.found[host]
	d.mu.Unlock()
	var look fleet.DrainLook
	var err error
	if f.operation == operation {
		asked := f.next()
		if look, err = d.Store.LookAtDrain(ctx, host, asked); err != nil {
			return look, err
		}
		look.Members = f.merge(asked, look.Members)
	}
	if n := time.Duration(len(look.Members)); n == 0 || look.Now.Sub(f.at) > refreshAfter+n*refreshEach {
		if look, err = d.Store.LookAtDrain(ctx, host, nil); err != nil {
			return look, err
		}
		f.at = look.Now
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.found[host] = found{operation, look.Members, f.at}
	return look, nil
}

// advance is one look and one decision.
func (d *drains) advance(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	look, err := d.look(ctx, fleet.HostID(s.Operation.ResourceID), s.Operation.ID)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Advance(fleet.Changes{}), nil // it went with its cluster
	}
	if err != nil {
		return fleet.Outcome{}, err
	}
	if look.Host.State != fleet.HostDraining || look.Host.DrainOperationID != s.Operation.ID {
		return fleet.Fail(fleet.ReasonHostLost, fmt.Sprintf("host %s is %s, and drained no more", look.Host.Name, look.Host.State)), nil
	}
	total, _ := strconv.Atoi(s.Operation.Observed[totalKey]) // 0 before the first look
	total = max(total, len(look.Members))
	out := d.decide(look, total)
	out.Changes.Observed = map[string]string{totalKey: strconv.Itoa(total)}
	return out, nil
}

// tally is where the members of a drain stand.
type tally struct {
	moving, busy, failed, stays, noRoom int
	// one tells of one that failed, or that stays, for people.
	one string
	// next is when the first of those that failed is tried again.
	next time.Time
}

// decide says what a look calls for, from the look alone.
func (o DrainOptions) decide(look fleet.DrainLook, total int) fleet.Outcome {
	change := fleet.DrainChange{HostID: look.Host.ID, OperationID: look.Host.DrainOperationID}
	t, due := o.tally(look)
	others := slices.Clone(look.Others)
	for _, m := range due {
		if t.moving >= max(1, look.Host.DrainAtOnce) {
			break
		}
		if !take(others, m) {
			t.noRoom++
			continue
		}
		t.moving++
		change.Begin = append(change.Begin, fleet.MoveStart{InstallationID: m.InstallationID, OperationID: fleet.OperationID(fleet.NewID())})
	}
	left := len(look.Members)
	detail := fmt.Sprintf("%d of %d have left host %s, %d are moving", total-left, total, look.Host.Name, t.moving)
	for _, part := range []struct {
		n    int
		what string
	}{{t.noRoom, "find no other host with room"}, {t.busy, "have other work under way"}, {t.failed, "failed"}, {t.stays, "stay, because their data can't be moved"}} {
		if part.n > 0 {
			detail += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	if t.one != "" {
		detail += "; " + t.one
	}
	change.Over = left == t.stays
	if change.Over && left == 0 {
		return fleet.Advance(fleet.Changes{Drain: &change})
	}
	if change.Over {
		out := fleet.Fail(fleet.ReasonDataCannotMove, detail)
		out.Changes.Drain = &change
		return out
	}
	reason, rest := fleet.WaitMoves, drainRest
	switch {
	case t.moving > 0:
		rest = drainLook
	case t.noRoom > 0:
		reason = fleet.WaitCapacity
	case !t.next.IsZero() && t.busy == 0:
		reason, rest = fleet.WaitBackoff, max(drainLook, min(t.next.Sub(look.Now), drainRest))
	}
	out := fleet.Wait(rest, reason, detail)
	if len(change.Begin) > 0 {
		out.Changes.Drain = &change
	}
	return out
}

// tally counts the members by where they stand, and returns those whose turn it may be.
func (o DrainOptions) tally(look fleet.DrainLook) (tally, []fleet.DrainMember) {
	var t tally
	var due []fleet.DrainMember
	tell := func(m fleet.DrainMember) {
		if t.one == "" {
			t.one = strings.TrimSpace(fmt.Sprintf("%s (%s): %s %s", m.Name, m.State, m.Reason, m.Detail))
		}
	}
	for _, m := range look.Members {
		again := m.FailedAt.Add(o.backoff(m))
		switch m.Progress() {
		case fleet.DrainMoving:
			t.moving++
		case fleet.DrainStays:
			t.stays++
			tell(m)
		case fleet.DrainFailed:
			tell(m)
			if m.Movable() && !again.After(look.Now) {
				due = append(due, m)
				continue
			}
			t.failed++
			if m.Movable() && (t.next.IsZero() || again.Before(t.next)) {
				t.next = again
			}
		default:
			switch {
			case m.Busy != "" || m.State.Transient():
				t.busy++
			case m.Failures > 0 && again.After(look.Now):
				t.noRoom++ // it lost the room to somebody else
			default:
				due = append(due, m)
			}
		}
	}
	return t, due
}

// backoff is how long a member whose move failed is left alone.
func (o DrainOptions) backoff(m fleet.DrainMember) time.Duration {
	if m.Failures == 0 {
		return 0
	}
	if m.Reason == fleet.ReasonCapacity {
		return o.FirstBackoff
	}
	return min(o.FirstBackoff<<min(m.Failures-1, 16), o.MaxBackoff)
}

// take promises a member room on one of the hosts; false where none has any. The
// store decides in the end.
func take(hosts []fleet.Host, m fleet.DrainMember) bool {
	for i := range hosts {
		h := &hosts[i]
		if m.MemoryMiB <= max(0, h.FreeMemoryMiB()) && m.DiskMiB <= max(0, h.FreeDiskMiB()) {
			h.MemoryHeldMiB += m.MemoryMiB
			h.DiskHeldMiB += m.DiskMiB
			return true
		}
	}
	return false
}
