// Package api is the REST API: it decodes and validates requests, makes one
// call of the store, and answers with wire types of package client or with
// problem documents (RFC 9457). It does no work itself: every change of an
// installation or cluster is accepted as an operation (202) that a supervisor
// works off. Packages are taken in and let go at once, since nothing has to
// happen elsewhere.
//
// What holds everywhere:
//
//   - A request is understood whole or refused: unknown fields and query
//     parameters, fields given twice, null, other content types and bodies
//     over their limit are errors that name the field.
//   - Errors become problem documents in one place (problem.go). An error that
//     nobody has classified, and a panic, tell the caller a request ID only.
//   - Secrets are sealed before the store sees them, under fleet.SecretContext, and
//     neither they nor any body are logged or repeated in an error.
//   - There are no tokens yet. CheckListen refuses addresses that others can
//     reach; requests under a name that is not loopback are refused (DNS
//     rebinding), and so are writes from pages of another origin.
//   - A long poll is told of changes by the Watcher and reads again now and then
//     for those of other processes, so that nothing depends on being told.
//
// The source of the API is api/openapi.yaml. Tests walk router and document in
// both directions, compare its schemas with the wire types, and validate every
// answer that they provoke.
package api
