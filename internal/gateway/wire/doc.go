// Package wire moves a tenant's bytes: HTTP/1.1 (RFC 9112) between clients and
// instances, upgraded connections, and plain TCP. Clients may speak HTTP/2 (RFC
// 9113) and TLS, too; net/http speaks the former, and its requests go the same way.
// It knows nothing of installations: a Handler says where each request goes, and
// may take its time.
//
// What holds whatever clients and instances do:
//   - A request that two programs could understand in two ways is refused, and its
//     connection ends. What frames a message is written anew, never copied.
//   - An answer that is not whole does not look whole: the connection is reset.
//   - A request reaches an instance twice only if the first can't have been processed.
//   - Bodies are never gathered; a connection that waits holds no buffer.
//   - Every wait has an end, and every Pass is done exactly once.
//
// One goroutine serves a connection. There are no timers for single requests: one
// goroutine looks at everything that is open a few times a second (lives), which is
// how precise timeouts and breaks are. That a client has left while it waits is seen
// within about a second; one that closes its sending side early counts as gone, but in a tunnel.
package wire
