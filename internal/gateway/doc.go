// Package gateway carries a tenant's traffic: a request for
// http://NAME.DOMAIN, or for one of an installation's DNS names, goes to the
// instance that serves it, and so does a connection to one of its TCP ports.
// Who comes to a sleeper is held while it wakes. Package wire moves the bytes;
// this package is the Handler that decides.
//
// # Routes
//
// Routes says where installations are. The book keeps what it said, in memory
// and in a file of the gateway's own, and uses it for half a minute without
// asking, or until Changed. Where Local knows an instance, its word counts and
// nobody is asked before a request is served: what runs or sleeps on this host is
// served and woken with the database down, slow or hanging, also by a gateway
// that was started meanwhile. The file is replaced as a whole and carries a
// checksum: it is what was written, or it is as good as none.
//
// # Doors
//
// Each installation has a door. What stands behind it (serving, asleep, being
// worked on, resting) is not remembered but looked at for each visitor, under
// the door's lock: a visitor is counted in before the lock is given back, so that
// Quiesce finds either the visitor or a door that is closed.
//
//   - One wake is under way per installation, however many wait for it. It ends
//     with the return of the Waker and with nothing else: not with a visitor who
//     leaves, and not with a timer. While it does not return, no other is begun.
//   - After a wake that failed, none is tried for a second, then two, four, up to
//     a minute. A wake that is said to have served and has not, has failed.
//   - Who is held is bounded: in number, for each installation and in all; in
//     bytes (heads only, no body is read meanwhile); and in time. A browser gets a
//     page that comes again by itself as soon as that is better than waiting.
//   - Nothing is ever sent twice here: a request that was held had not been sent.
//   - Every wake and every Quiet changes Pass.Key, so that no connection from
//     before is used for what comes after.
//   - Between Quiesce and Release nothing is in flight and nobody gets in. With
//     Yield the visitors come first; without, they wait.
//
// # Who may not wake
//
// Requests that an installation's WakeRules name pass while it is awake, and
// wake nothing. They are no activity either: else a probe would keep awake what
// it may not wake. Where the rules hide the installation, they are answered what
// a name that nobody has is answered: the same bytes, and after as many lookups.
//
// # Answers of its own
//
// They are problem documents (RFC 9457), or pages for browsers; the field
// Dormouse-Refused says why in a word. They say what an installation is doing,
// never what is inside: no address, no error text of a machine or the Waker.
//
// # What it must not do
//
// It changes nothing but by the Waker: power is the host's. It imports no room,
// and asks the control plane nothing but Routes and Report.
package gateway
