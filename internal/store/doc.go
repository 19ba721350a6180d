// Package store is the only place with SQL. It keeps the state of the control
// plane in Postgres 15 or newer.
//
// Query methods hang on *Tx, reached through InTx; the exported methods of
// Store are one transaction each. No rows is fleet.KindNotFound, a broken
// constraint is fleet.KindConflict, zero rows on a compare-and-set is
// fleet.KindStale, a database that does not answer is fleet.KindUnavailable.
//
// Locks are taken in this order, so that transactions never deadlock:
// installation or cluster rows (by ID), operation rows, host rows (by ID),
// address leases. No provider is called inside a transaction.
//
// What an operation changes is written by Commit only, fenced by the epoch
// that its claim gave it, with the event in the same transaction.
package store
