// Package simulate holds tests only: several provisioners on one real Postgres
// and one simulated provider, under one scheduler that decides every
// interleaving. `make simulate SEEDS=n` runs it.
//
// # How a seed is one history
//
// Processes, clients and the simulator live in a testing/synctest bubble, whose
// time is simulated. Whatever they do outside of their own memory (a statement, a
// call of the provider, a turn of the engine) first parks; when all are parked, the
// scheduler draws from its seeded generator which goes on, or that time does, or
// that something breaks. So at any moment only one thing moves, and a seed is one history:
// it is printed as a trace with a hash, and two runs of a seed have the same hash.
//
// The store's calls run outside of the bubble, on lanes: pools of connections whose
// traffic passes through a proxy of ours. The proxy gives every transaction the
// simulated time, stops a call between any two of its statements so that another
// one comes between (a call that then waits for a lock is found out by asking
// Postgres), and cuts connections before or after a statement, a commit included.
// What is cut is the connection; Postgres' session behind it serves the next one, with
// the statements that it has prepared.
//
// # What breaks
//
// See faults_test.go; and all faults of the simulator's own, drawn from the seed.
//
// # What is checked
//
// See the invariants_*_test.go files: each invariant is a function, and TestPlantedBugs
// shows that each planted bug is found.
package simulate
