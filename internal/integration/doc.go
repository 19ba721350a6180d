// Package integration holds tests only: the real store on a real Postgres, the
// engine, the workflows and the simulator, joined as cmd/provisioner joins
// them. It is the one place besides cmd/ that may.
//
// For every workflow it has the triad: every step run twice; the process cut
// before and after every write, and its work taken over by another; a failure at every
// step followed by a deletion, after which the simulator must be empty. Beside that: a
// deletion while any step runs, a worker that wakes up late, and many clients at once.
// After each case one function (invariants) looks at all rows and all machines.
//
// What was hit is counted by workflow, step and kind of cut, and a gap fails
// the run: a new step is in the triad or the tests say that it is not.
package integration
