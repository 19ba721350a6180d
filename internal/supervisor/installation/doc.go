// Package installation holds the workflows of installations as tables of
// steps, the sweep that compares the store with what the providers have, and
// the watcher that records programs that ended by themselves.
//
// Invariants: an instance's row is committed before the provider hears of its
// ID, so that whatever exists outside can be found from the inside. At most
// one instance of an installation is on, because at most one may have its
// volume. A predecessor is kept until its successor is healthy, and comes back
// where it is not.
package installation
