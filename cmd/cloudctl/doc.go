// Command cloudctl is the command line of Dormouse, over package client.
//
// Results go to standard output, everything else (progress, notes, errors) to
// standard error. What the server sends never reaches a terminal with its
// control characters in it. Exit codes are part of the interface: see
// exitcode.go, or "cloudctl help exit-codes".
//
// It keeps no state and does no work of its own: killing it, at any moment,
// ends nothing that the server has accepted.
package main
