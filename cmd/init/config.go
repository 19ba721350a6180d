package main

import (
	"fmt"
	"path"
	"time"

	"dormouse/internal/guest"
)

// defaultStopTimeout is how long a program has after SIGTERM where the
// configuration does not say: what container runtimes give, so programs are used to it.
const defaultStopTimeout = 10 * time.Second

// checkConfig refuses what could not be carried out, before anything is touched.
func checkConfig(c guest.Config) error {
	if !path.IsAbs(c.Program) {
		return fmt.Errorf("the configuration's program %q is no absolute path", c.Program)
	}
	switch c.Restart {
	case guest.RestartAlways, guest.RestartOnFailure, guest.RestartNever:
	default:
		return fmt.Errorf("the configuration's restart policy %q is none of always, on-failure and never", c.Restart)
	}
	if c.Dir != "" && !path.IsAbs(c.Dir) {
		return fmt.Errorf("the configuration's working directory %q is no absolute path", c.Dir)
	}
	for _, p := range c.Persist {
		if !path.IsAbs(p) || path.Clean(p) == "/" {
			return fmt.Errorf("the configuration's persistent path %q is no absolute path below the root", p)
		}
	}
	return nil
}

// stopTimeout is how long the program has after SIGTERM.
func stopTimeout(c guest.Config) time.Duration {
	if c.StopTimeout > 0 {
		return c.StopTimeout
	}
	return defaultStopTimeout
}

// environment is the program's, with what shells and daemons take for granted.
func environment(c guest.Config, who *guest.User) []string {
	env := make([]string, 0, len(c.Env)+2)
	for name, value := range c.Env {
		env = append(env, name+"="+value)
	}
	if _, ok := c.Env["PATH"]; !ok {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	if _, ok := c.Env["HOME"]; !ok {
		home := "/"
		if who != nil && who.Home != "" {
			home = who.Home
		}
		env = append(env, "HOME="+home)
	}
	return env
}
