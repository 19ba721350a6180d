// Package engine is the only loop there is: it claims operations that are due,
// runs one step of each, and commits one transition, until the operation ends.
//
// It knows nothing of installations or clusters: a workflow is a table of
// steps, given by the packages beside it. A step returns what it observed; the
// engine alone writes, in batches, fenced by the epoch of its claim. A worker
// that has been overtaken (its lease ran out, or a delete pre-empted the
// operation) finds its commits refused and lets go.
//
// Failure: an error of a step is tried again with exponential back-off and
// jitter, up to MaxAttempts; an error that can't be mended by trying, a
// deadline that passed (after one more look), or an outcome of Fail ends the
// operation, after the workflow's rollback where it has one. A panic fails its step, not the process.
//
// Nothing depends on a notification: a signal, a local wake-up or a NOTIFY only
// makes the next look come sooner than the poll.
package engine
