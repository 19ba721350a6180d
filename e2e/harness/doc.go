// Package harness starts the real binaries for the tests in e2e, and looks at
// them from outside: /proc, `ip netns`, files, psql. It knows nothing of how
// they work inside.
//
// # One environment
//
// An Environment is a directory of its own below the temporary directory, with
// a provisioner's data directory, loopback ports of its own and, through the
// data directory's name, a network namespace of its own. Any number of them,
// and of other people's provisioners, live beside one another on one machine.
//
//	BASE/data   the data directory
//	BASE/log    what the provisioner writes, over all of its starts
//
// # Nothing is left
//
// Close stops the provisioner as Ctrl-C does and then looks from outside: a
// process, a network namespace or a mount that is left is an error. After that
// it removes whatever there is, so that a test that failed leaves nothing
// either. For a test binary that is killed there is a guard: a process that
// holds a pipe from it and cleans up when the pipe breaks.
//
// # What it must not do
//
// It ends only processes that belong to its directory, by their IDs, and makes
// addresses only inside the provisioner's namespace. It never skips: what is
// missing is an error with the command that brings it.
package harness
