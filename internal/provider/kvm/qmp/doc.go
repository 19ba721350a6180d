// Package qmp speaks the QEMU Machine Protocol: JSON objects, one a line, over
// a unix socket (docs/interop/qmp-spec.txt in QEMU's source).
//
// It knows the envelope (greeting, capabilities, commands, answers, events) and
// no command. A client serves one connection; when that ends, every call under
// way returns an error that wraps ErrClosed, and the caller connects anew.
package qmp
