// Package certs finds the certificates that the gateway shows: the operator's own,
// from files, which are read again when they change; and others on demand, by ACME
// (RFC 8555) with the challenge TLS-ALPN-01 (RFC 8737), for names that the caller
// allows and no others, no more often than the limits say. A name that has neither
// is refused in the handshake. What was issued is kept in a directory, and renewed
// when it is used in the last third of its life.
package certs
