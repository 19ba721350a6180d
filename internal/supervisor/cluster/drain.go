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
// added there, so that one look at the whole cluster is enough.
type drains struct {
	DrainOptions
	mu    sync.Mutex
	found map[fleet.HostID]found
}

// found are the installations that a drain has to move.
type found struct {
	operation fleet.OperationID
	all       []fleet.InstallationID
}

// look returns who lies on a host. That nobody does is believed only after a look at the whole cluster.
func (d *drains) look(ctx context.Context, host fleet.HostID, operation fleet.OperationID) (fleet.DrainLook, error) {
	d.mu.Lock()
	f := d.found[host]
	d.mu.Unlock()
	if f.operation == operation {
		look, err := d.Store.LookAtDrain(ctx, host, f.all)
		if err != nil || len(look.Members) > 0 {
			return look, err
		}
	}
	look, err := d.Store.LookAtDrain(ctx, host, nil)
	f = found{operation, make([]fleet.InstallationID, len(look.Members))}
	for i, m := range look.Members {
		f.all[i] = m.InstallationID
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.found[host] = f
	return look, err
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
