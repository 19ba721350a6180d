// Package migrations embeds the numbered SQL files that make the schema, in
// the form that golang-migrate reads. A released file is never changed; a
// change is a new pair of files. Every step must let the binary before it go
// on working, because processes are upgraded one by one.
package migrations

import "embed"

// Files holds NNNN_name.up.sql and NNNN_name.down.sql.
//
//go:embed *.sql
var Files embed.FS
