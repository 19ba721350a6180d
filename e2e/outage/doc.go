// Package outage takes Postgres away from a provisioner for a while, and restarts the
// provisioner meanwhile: tenants that run are served all the time, those that sleep are
// woken by whoever comes, and when Postgres is back the control plane
// hears of it and everything goes on.
//
//	DORMOUSE_OUTAGE  how long Postgres is away (20s; `make outage` 5m); from a minute on the
//	                 idle policy is waited for, too
package outage
