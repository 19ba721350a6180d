// Package powercut ends things at random moments while an installation goes to
// sleep and wakes: QEMU, the provisioner or Postgres alone by SIGKILL, or
// all of them at once, and with them what was not synced.
//
// Everything but images and kernels lies on a disk that loses its power (package lossy): the host's
// journal, volumes, memory and saved states, and the private Postgres. After each cut
// of the power the network namespace is gone too.
//
// A writer in the guest acknowledges a note after it has synced it to its volume. After each
// round all that was acknowledged is there, once, and what was asked for is so. All the time a
// poller looks for two machines of one installation; the one that only verifies
// what was saved runs no instruction, and does not count.
//
//	DORMOUSE_POWERCUT_ROUNDS  how often something is ended (8; `make powercut` 200)
//	DORMOUSE_POWERCUT_SEED    what is ended when is drawn from it
package powercut
