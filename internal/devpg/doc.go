// Package devpg runs the private Postgres of `provisioner server --dev`, from
// the server binaries that the machine has installed, in <data-dir>/postgres.
//
// It is not a toy database: fsync, synchronous_commit and full_page_writes are
// on, and whoever pulls the plug loses nothing that was committed. It listens
// on a unix socket only, in a directory that nobody but its own user (and root)
// may enter; that directory is the access control, so pg_hba.conf says trust.
//
// What it must not do: know what is in the database. devpg speaks to Postgres
// only to see that it answers, and to make the empty database that the store
// then migrates. That is why it imports lib/pq and holds three statements,
// although SQL otherwise stands only in internal/store.
//
// # Layout of Options.Dir
//
//	data/          PGDATA, mode 0700, of the account that Postgres runs as
//	data.new-*     a data directory being made; leftovers are removed by the next Start
//	socket/        the unix socket; elsewhere where the path would be too long for one
//	postgres.log   what the server writes, at most maxLogBytes, and postgres.log.1
//	lock           held while starting and stopping, never longer
//
// # The account
//
// initdb and postgres refuse to run as root. Where we are root they run as the
// system user postgres, which the distribution's package makes for this very
// purpose, or as nobody where there is no such user. A data directory that
// exists is always run by the account that owns it. Otherwise they run as the
// user who called us.
//
// # Invariants
//
//   - data/ appears whole or not at all: initdb works in data.new-*, which is
//     synced and then renamed.
//   - The server outlives this process (session of its own), and the next Start
//     adopts it. Who it is, is decided by the process's working directory and
//     not by the process ID in postmaster.pid, which another process may have
//     by now.
//   - Start and Stop of one directory exclude one another through a file lock,
//     across processes.
//   - Stop returns nil only when no process of that data directory is left, and
//     no socket.
//   - While Watch runs, a server that has ended without Stop comes back under the
//     same URL. Watch never makes a data directory.
//
// # On failure
//
// Every error says what to do. A failed Start leaves no server running that it
// started itself, and no half-made data directory.
package devpg
