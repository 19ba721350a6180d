package imagebuilder

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dormouse/internal/fleet"
)

// Bounds on what is remembered of builds.
const (
	maxLogLines = 200
	maxEnded    = 100
)

// builds remembers what this process builds, and how its last builds ended.
type builds struct {
	mu   sync.Mutex
	byID map[fleet.ImageID]*build
	// ended are the IDs of those that have, oldest first.
	ended []fleet.ImageID
}

// build is one build, under way or ended.
type build struct {
	rec     record
	started time.Time
	done    atomic.Int64
	total   atomic.Int64

	mu    sync.Mutex
	lines []string
	over  bool
	err   error
}

// begin forgets an earlier build of the same image.
func (b *builds) begin(rec record, now time.Time) *build {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := rec.id()
	b.ended = slices.DeleteFunc(b.ended, func(e fleet.ImageID) bool { return e == id })
	run := &build{rec: rec, started: now}
	b.byID[id] = run
	return run
}

func (b *builds) end(run *build, err error) {
	run.mu.Lock()
	run.over, run.err = true, err
	run.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = append(b.ended, run.rec.id())
	if len(b.ended) > maxEnded {
		delete(b.byID, b.ended[0])
		b.ended = slices.Delete(b.ended, 0, 1)
	}
}

// get returns the build of an image; nil where this process remembers none.
func (b *builds) get(id fleet.ImageID) *build {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byID[id]
}

// all returns the images that have a build here.
func (b *builds) all() []fleet.ImageID {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := make([]fleet.ImageID, 0, len(b.byID))
	for id := range b.byID {
		ids = append(ids, id)
	}
	return ids
}

// note adds a line to the build's log, with the time since it began.
func (r *build) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == maxLogLines {
		r.lines = slices.Delete(r.lines, 0, 1)
	}
	r.lines = append(r.lines, fmt.Sprintf("%8.3fs  ", time.Since(r.started).Seconds())+fmt.Sprintf(format, args...))
}

// describe adds what is known of the build to an image that is not there.
func (r *build) describe(i *fleet.Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i.Log = slices.Clone(r.lines)
	if i.State == fleet.ImageReady {
		return
	}
	r.rec.describe(i)
	i.State, i.StartedAt = fleet.ImageBuilding, r.started
	i.DoneBytes, i.TotalBytes = r.done.Load(), r.total.Load()
	if r.over && r.err != nil {
		i.State, i.Detail = fleet.ImageFailed, r.err.Error()
	}
}
