package main

// Numbers of system calls that package syscall does not have.
const (
	sysFinitModule = 313
	sysSyncfs      = 306
)
