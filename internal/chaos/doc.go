// Package chaos holds tests only: real processes under kills, looked at from
// outside. `make chaos RUNS=n` plays n runs; the tests play one short one.
//
// A run has a Postgres, a simulator and three provisioners on them. Tenants send
// requests over HTTP, each to any of the three, and again under the same
// idempotency key until they have an answer, while a killer with a seed sends
// SIGKILL, SIGSTOP past the lease, ends sessions of Postgres and kills its backends
// (upon which it restarts). The simulator has its own faults. Then all faults end,
// everything has to settle, and the end is judged by SQL, by what the simulator has
// and has counted, by the API and by /proc.
//
// Which process is hit when is drawn from the seed; what it was doing then is not.
// A run that fails prints its seed and where its logs are.
//
// internal/simulate decides every interleaving, of one process with all in it; what
// it has replaced (processes, clocks, HTTP, signals) is real here.
package chaos
