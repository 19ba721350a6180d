// Command workspace is the example application: a small web workspace with
// notes and a counter of visits, whose state lies in one file on a persistent
// path. It stands for any program that a product gives each of its tenants.
//
// Environment:
//
//	TENANT_NAME    whose workspace it is; shown as the title
//	GREETING       a sentence shown below it, and in /api/info
//	LISTEN         address to listen on; :8080 where empty
//	DATA_DIR       where the state lies; /data where empty
//	FAIL_HEALTH=1  /healthz answers 500           ┐ releases that are bad
//	CRASH_AFTER=1s ends with an error after that  │ in different ways, for
//	EXIT_CODE=n    ends at once with that code    ┘ tests of upgrades
//
// It imports the standard library only, and builds static.
package main
