// Package wire moves a tenant's bytes: HTTP/1.1 (RFC 9112) between clients and
// instances, upgraded connections, and plain TCP. It knows nothing of
// installations: a Handler says where each request goes, and may take its time.
package wire
