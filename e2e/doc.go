// Package e2e tests the real binaries as a user has them: cloudctl, the HTTP
// API and the gateway against a provisioner with a real Postgres and real
// virtual machines. It imports nothing of the module but the public client.
//
// One provisioner serves all tests of the package (Shared); those that end
// their provisioner, or starve it, have one of their own (Own). The harness
// fails the package where anything is left at its end. DORMOUSE_BIN names a
// directory with the binaries to test; without it they are built.
package e2e
