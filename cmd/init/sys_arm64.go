package main

// Numbers of system calls that package syscall does not have.
const (
	sysFinitModule = 273
	sysSyncfs      = 267
)
