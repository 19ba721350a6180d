package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"dormouse/internal/guest"
)

// startProgram starts the program in a session of its own and returns its process ID.
func startProgram(c guest.Config, who *guest.User) (int, error) {
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return 0, fmt.Errorf("starting %s: its working directory %s is no directory of the image", c.Program, dir)
	}
	if err := checkProgram(c.Program, dir, 3); err != nil {
		return 0, fmt.Errorf("starting %s: %w", c.Program, err)
	}
	in, err := devNull()
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", c.Program, err)
	}
	defer in.Close()
	sys := &syscall.SysProcAttr{Setsid: true}
	if who != nil {
		sys.Credential = &syscall.Credential{Uid: uint32(who.UID), Gid: uint32(who.GID), Groups: who.Groups}
	}
	pid, err := syscall.ForkExec(c.Program, append([]string{c.Program}, c.Args...), &syscall.ProcAttr{
		Dir:   dir,
		Env:   environment(c, who),
		Files: []uintptr{in.Fd(), 1, 2},
		Sys:   sys,
	})
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", c.Program, err)
	}
	return pid, nil
}

// checkProgram says in words what the kernel would only say with a number: that
// a program is for another machine, or that what should interpret it is missing.
// depth bounds scripts that name scripts.
func checkProgram(file, dir string, depth int) error {
	info, err := os.Stat(file)
	switch {
	case os.IsNotExist(err):
		return errors.New("there is no such file in the image")
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is not a file")
	case info.Mode()&0o111 == 0:
		return errors.New("it is not executable: set its mode in the package")
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if err != nil && n == 0 {
		return errors.New("it is empty")
	}
	interpreter, err := interpreterOf(f, head[:n])
	if err != nil || interpreter == "" {
		return err
	}
	if depth == 0 {
		return errors.New("scripts that name scripts go on for too long")
	}
	if !strings.HasPrefix(interpreter, "/") {
		interpreter = dir + "/" + interpreter
	}
	if err := checkProgram(interpreter, dir, depth-1); err != nil {
		return fmt.Errorf("its interpreter %s: %w", interpreter, err)
	}
	return nil
}
