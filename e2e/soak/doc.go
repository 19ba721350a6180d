// Package soak kills the provisioner again and again while it creates, updates,
// restarts, puts to sleep, wakes and deletes virtual machines, and then looks
// from outside whether everything is as it was asked for.
//
// A kill is aimed: tenants ask for what leads to the step that is to be hit,
// the log says when that step begins, and then the provisioner is stopped
// (SIGSTOP). With the world standing still the database says which steps are
// claimed by it; if that is what was wanted it is killed, else it goes on.
//
//	DORMOUSE_SOAK_KILLS          how often it is killed (10; `make soak` 50)
//	DORMOUSE_SOAK_INSTALLATIONS  how many tenants there are (4, or 10 from 50 kills on)
package soak
