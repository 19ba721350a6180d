// Package steps carries rollouts out: the workflow of a rollout's operation, which
// reads what is, has package rollout decide, and gives the engine what to write.
//
// A rollout is one operation that lasts as long as the rollout does. Whoever
// holds its claim conducts it; when that process dies, or is stopped for longer
// than its lease, another one goes on from what is stored. What one process
// remembers between two looks only saves reading: it is used as long as the
// stored rollout is as this process last wrote it.
//
// A decision is written in the transaction that commits the step, fenced by the
// operation's epoch and by the rollout's version, together with the operations
// on members that it begins. Members that can't be begun at that moment (somebody
// else is at work on them) stay waiting.
package steps
