// Package client is the public Go SDK of the Dormouse API: its wire types and
// a client. It imports the standard library only.
//
//	c, err := client.New("http://127.0.0.1:8075", client.Options{})
//	in, err := c.Installations.Create(ctx, client.CreateInstallation{Name: "acme", Owner: "alice", Package: "workspace"})
//	op, err := c.Operations.Follow(ctx, in.Operation.ID, nil)
//
// Invariants. Every change carries an Idempotency-Key, which stays the same
// when the client repeats the request, so that a change is made at most once
// however often the connection breaks. Repeats are bounded (Options.Attempts)
// in every method but the two named Follow, which go on until their context ends.
//
// On failure: what the server refuses is an *Error with its problem document;
// a server that can't be reached is an *UnreachableError; a context that ended
// is that context's error, wrapped. The client keeps no state on disk and
// starts no goroutines of its own.
package client
