// Package archtest has no code of its own: its tests hold the architecture of
// the tree in tables, and compare.
//
// rooms_test.go says which package may import what, with a reason in each row.
// The tests parse every Go file (whatever its build tags) and fail on an import
// that no row allows, on a package without a row and on a row whose package is
// gone. The graph of packages in ARCHITECTURE.md is generated from the same
// imports:
//
//	go test ./internal/archtest -update
package archtest
