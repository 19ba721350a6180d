// Package remote lets many processes share one simulator: a Server has it, and
// a Client in each provisioner stands in for it with the same methods. What a
// simulator says crosses the wire whole: the kind, reason, field and wait of an error, and
// io.ErrUnexpectedEOF where an injected fault lost the answer.
//
// # Protocol
//
// HTTP on a loopback address or a Unix socket, where nobody else listens in:
// there is no authentication. A call is POST /call/NAME with its arguments in JSON,
// and is answered by {"result": …} or {"error": …}. GET /changes is a long poll for the IDs
// of instances that have changed; GET /ledger, GET /ledger/entries and POST /ledger/leaks read
// the ledger. The two sides are built from one tree, so the protocol has no versions.
//
// # Failure
//
// A connection that can't be made or that breaks is KindUnavailable, and the
// call may have had its effect or not, as with any provider. A call ends with its context, and
// tells the simulator so by breaking the connection. Calls are never repeated here.
//
// # Signals
//
// A change goes to the client that was the last to call about the instance: it
// is the one whose operation waits. Where that client has gone, it goes to all, for whom an
// instance that they know nothing of is soon dismissed. Signals are lost with a connection or a
// process, and nothing may depend on one.
//
// # Secrets
//
// Of an instance's environment, only what the simulator acts on is sent.
package remote
