package installation

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// EndingStore is what both the watcher and the sweep need of the database.
type EndingStore interface {
	// InstancePlace returns what is known around one instance that is not deleted:
	// its installation, its cluster, the instance alone in Instances, and the
	// installation's active operation, or the zero one. KindNotFound where there
	// is none.
	InstancePlace(ctx context.Context, id fleet.InstanceID) (fleet.Snapshot, error)
	// ObserveExit records how a serving instance of a stable installation ended;
	// false where it is not that any more, and nothing was written.
	ObserveExit(ctx context.Context, id fleet.InstanceID, exit fleet.Exit, to fleet.State) (bool, error)
}

// Requests accepts operations, as the API's requests do.
type Requests interface {
	ChangeInstallation(ctx context.Context, in fleet.Change) (fleet.Accepted, error)
}

// judge says what becomes of an installation whose machine has ended in that
// way: it comes back, or rests in a state.
//
// The rule is whose doing the end was. A program that ended has had its restarts
// already, from the init in its guest and under its policy; it is not started
// again from here: it rests where its policy lets it (exited), and else is
// stopped until somebody acts (crash-looping). A machine that was lost (its host
// went down, its QEMU was killed or did not start) did nothing wrong and comes
// back, whatever its policy; so does one whose guest panicked, unless its policy
// is never. Bounds are put on that by revivals; beyond them it is crash-looping,
// with the machine's reason.
func judge(x fleet.Exit, policy fleet.RestartPolicy) (back bool, rest fleet.State) {
	switch x.Reason {
	case fleet.ReasonProgramExited:
		if policy == fleet.RestartNever || policy == fleet.RestartOnFailure && x.Code == 0 {
			return false, fleet.StateExited
		}
		return false, fleet.StateCrashLooping
	case fleet.ReasonCrashLoop:
		return false, fleet.StateCrashLooping
	case fleet.ReasonGuestPanic:
		if policy == fleet.RestartNever {
			return false, fleet.StateExited
		}
	}
	return true, fleet.StateCrashLooping
}

// Bounds of how often a machine is brought back that keeps getting lost.
const (
	maxRevivals   = 3
	revivalWindow = time.Hour
)

// Endings acts on machines that are off and should be on. The watcher and the
// sweep share one, so that they share the count of how often an installation was
// brought back; the count is kept in memory only. Make it with NewEndings.
type Endings struct {
	store    EndingStore
	requests Requests
	wake     func()
	clock    engine.Clock
	log      logrus.FieldLogger

	mu       sync.Mutex
	revivals map[fleet.InstallationID][]time.Time
}

// NewEndings returns what acts on endings. wake, which may be nil, is called
// after a restart was requested: the engine's Wake.
func NewEndings(store EndingStore, requests Requests, wake func(), clock engine.Clock, log logrus.FieldLogger) *Endings {
	if wake == nil {
		wake = func() {}
	}
	return &Endings{store: store, requests: requests, wake: wake, clock: clock, log: log, revivals: map[fleet.InstallationID][]time.Time{}}
}

// servesNow tells whether the snapshot's instance should be on and nobody is at
// work on it.
func servesNow(s fleet.Snapshot) bool {
	return s.Installation != nil && s.Installation.State == fleet.StateStable && s.Operation.ID == "" &&
		len(s.Instances) == 1 && s.Instances[0].Serving && s.Instances[0].Power == fleet.PowerOn
}

// settle brings the instance back or records its end. exit is nil where the
// machine is gone without a trace.
func (e *Endings) settle(ctx context.Context, s fleet.Snapshot, exit *fleet.Exit) (Action, error) {
	i, x := s.Instances[0], fleet.Exit{Reason: fleet.ReasonHostLost, Code: -1, At: e.clock.Now().UTC()}
	if exit != nil {
		x = *exit
	}
	back, rest := judge(x, i.Spec.Manifest.Restart)
	log := e.log.WithFields(logrus.Fields{"installation": s.Installation.Name, "instance": i.ID, "reason": x.Reason, "code": x.Code})
	if back && e.mayRevive(i.InstallationID) {
		return e.revive(ctx, s, x, log)
	}
	if x.Reason == "" {
		x.Reason = fleet.ReasonHostLost // stopped from outside, again and again
	}
	recorded, err := e.store.ObserveExit(ctx, i.ID, x, rest)
	if err != nil {
		return ActionNone, fmt.Errorf("recording how instance %s ended: %w", i.ID, err)
	}
	if !recorded {
		return ActionNone, nil
	}
	log.WithField("state", rest).Warn(x.String())
	return ActionRecorded, nil
}

// revive requests a restart, unless the installation has changed since it was read.
func (e *Endings) revive(ctx context.Context, s fleet.Snapshot, x fleet.Exit, log logrus.FieldLogger) (Action, error) {
	acc, err := e.requests.ChangeInstallation(ctx, fleet.Change{
		OperationID: fleet.OperationID(fleet.NewID()), IDOrName: string(s.Installation.ID), IfMatch: s.Installation.Version,
		Kind: fleet.OperationRestart,
	})
	switch fleet.KindOf(err) {
	case "":
	case fleet.KindStale, fleet.KindNotFound, fleet.KindNotAccepted:
		return ActionNone, nil // somebody else has changed it: the next pass looks again
	default:
		return ActionNone, fmt.Errorf("requesting a restart of installation %s: %w", s.Installation.Name, err)
	}
	e.mu.Lock()
	e.revivals[s.Installation.ID] = append(e.revivals[s.Installation.ID], e.clock.Now())
	e.mu.Unlock()
	e.wake()
	log.WithField("operation", acc.Operation.ID).WithField("ended", x.String()).Warn("the installation's machine is not running: restarting it")
	return ActionRestart, nil
}

// mayRevive tells whether the installation was brought back seldom enough of late.
func (e *Endings) mayRevive(id fleet.InstallationID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	since := e.clock.Now().Add(-revivalWindow)
	for key, times := range e.revivals {
		if !times[len(times)-1].After(since) {
			delete(e.revivals, key)
		}
	}
	count := 0
	for _, at := range e.revivals[id] {
		if at.After(since) {
			count++
		}
	}
	return count < maxRevivals
}
