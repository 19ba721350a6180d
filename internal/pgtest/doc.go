// Package pgtest gives each test a fresh database on a throw-away Postgres.
//
// The server is one per test process, started when a test first asks, from the
// installed binaries (15 or newer) and as an unprivileged user where we are
// root. It listens on a unix socket only, lies in memory where /dev/shm has
// room, and keeps nothing safe: fsync is off. pg_stat_statements, where it is
// installed, is loaded with track=all. Every database has an odd time zone
// (Zone), so that code which relies on the server's is found out.
//
// # Invariants
//
//   - The server and its directory end with the test process, however that ends,
//     SIGKILL included: their parent is a shell (watchdog.sh) in a session of its
//     own, whose standard input is a pipe from the test process. It cleans up
//     within moments after the pipe has closed.
//   - A test's databases are dropped at its end, with whatever is still connected.
//
// DORMOUSE_TEST_POSTGRES may name another server by the URL of any of its
// databases, as a role that may create databases. Its settings are its own, and
// a test process that is killed leaves its databases there, named dormouse_test_….
//
// What it must not do: know any table. The schema comes through the function
// that NewMigrated is given.
package pgtest
