// Package gateway carries a tenant's traffic: a request for
// http://NAME.DOMAIN goes to the instance that serves the installation of that
// name.
//
// It decides by the Host header only, speaks HTTP/1.1 (upgrades such as
// WebSocket included), passes answers on as they come and sets X-Forwarded-*
// itself. It asks Routes where an installation is, remembers the answer for a
// second, and goes on with what it remembers while Routes can't answer: tenants
// do not notice that the database is gone. It never changes anything.
//
// A request that can't be passed on gets a small plain answer, as JSON (RFC
// 9457) or HTML. That answer says what an installation is doing, never what is
// inside: no address, no error text of a backend.
package gateway
