// Package fleet holds the words of the domain: what an installation, an
// instance, a cluster or an operation is, which states they can be in, which
// state may follow which, and the kinds of error that every other package
// speaks in.
//
// It imports the standard library only and does nothing: no I/O, no clock, no
// randomness beyond NewID. Everything else in the tree points here, and this
// package points nowhere. State machines are data (Transitions,
// ClusterTransitions): the SQL check constraints, the diagram in
// ARCHITECTURE.md, the workflows' step registry and the answer to "which
// request is accepted now" are all tested against those tables.
package fleet
