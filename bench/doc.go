// Command bench measures what the control plane costs, from outside: over HTTP,
// in pg_stat_statements, in /proc and by the clock. It prints one line per
// figure on standard output, `name value unit`, and its progress on standard
// error.
//
//	go run ./bench [-only NAME,…] [-quick] [-bin DIR] [-keep]
//
// It never judges a figure: it ends with 0 whatever the numbers are, and with 1
// only where something did not work. The figures of a busy machine are those of
// a busy machine; statement counts hold anywhere.
//
// # What it measures with
//
// Real binaries as processes of their own, and a Postgres of its own with fsync
// and synchronous_commit on (internal/devpg) whose pg_stat_statements has
// track=all. Each benchmark has a database of its own. The bench looks into it
// as another role, whose statements are left out of the counts; BEGIN, COMMIT
// and ROLLBACK are no statements but counted apart.
//
// Clusters are simulated and answer at once, except for `wait`, `latency` and
// `takeover`, and for `boot`, `wake`, `herd` and `sleepers`, which run guests on
// QEMU. Beside ours they start the same QEMU with the same arguments and files of
// its own, which are taken from the running machine, and no part of the control plane.
//
// # On failure
//
// Everything that was started is ended, by process ID, and every directory and
// network namespace removed, also after Ctrl-C. -keep leaves the directory,
// with the logs of all processes.
package main
