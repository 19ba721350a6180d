package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

var (
	errEnded       = errors.New("it has ended")
	errUnreachable = errors.New("its socket is gone")
)

// adopt takes over the server that runs in the data directory, and tells
// whether one does. The caller holds the lock.
func (s *Server) adopt(ctx context.Context) (bool, error) {
	f, err := s.found(ctx)
	if err != nil || f.pid == 0 {
		return false, err
	}
	if s.socket == "" {
		s.socket = f.socketDir
	}
	log := s.log.WithField("pid", f.pid)
	err = s.awaitAnswer(ctx, func() error {
		if !runs(f.pid, s.dataDir) {
			return errEnded
		}
		if now, ok := readPidFile(s.dataDir); ok && now.ready && !exists(filepath.Join(s.socket, socketName)) {
			return errUnreachable
		}
		return nil
	})
	switch {
	case err == nil:
		log.Info("adopted the running Postgres")
		return true, nil
	case errors.Is(err, errEnded):
		return false, nil
	case errors.Is(err, errUnreachable):
		// Its directory was removed (XDG_RUNTIME_DIR goes with the last log-out):
		// nobody can reach this server any more.
		log.WithField("socket", s.socket).Warn("the running Postgres has lost its socket: stopping it")
		return false, stop(ctx, s.dataDir)
	default:
		return false, fmt.Errorf("adopting Postgres: process %d runs in %s but does not answer: end it with kill -QUIT %d and start again: %w",
			f.pid, s.dataDir, f.pid, err)
	}
}

// found waits until it is clear whether a postmaster runs, and returns it or
// nothing. One that has just begun, by a Start that was killed, has not written
// its pid file; orphans of one that was killed end by themselves, unless busy.
func (s *Server) found(ctx context.Context) (pidFile, error) {
	patience := time.Now().Add(orphanTimeout)
	var f pidFile
	err := poll(ctx, func() (bool, error) {
		var ok bool
		if f, ok = postmaster(s.dataDir); ok {
			return f.socketDir != "", nil
		}
		return len(processes(s.dataDir)) == 0 || time.Now().After(patience), nil
	})
	if err != nil {
		return pidFile{}, fmt.Errorf("adopting Postgres (process %d): it does not come up: end it with kill -QUIT and start again: %w", f.pid, err)
	}
	return f, nil
}

// start starts a server where none runs, and makes the data directory where
// there is none. The caller holds the lock.
func (s *Server) start(ctx context.Context) error {
	if err := removeLeftovers(s.dir); err != nil {
		return err
	}
	major, err := dataMajor(s.dataDir)
	if err != nil {
		return err
	}
	all, err := Find(ctx)
	if err != nil {
		return err
	}
	bin, err := choose(all, s.dataDir, major)
	if err != nil {
		return err
	}
	who, err := chooseAccount(s.dataDir)
	if err != nil {
		return err
	}
	if err := errors.Join(who.mayEnter(s.dir), who.mayEnter(bin.BinDir)); err != nil {
		return err
	}
	log := s.log.WithFields(logrus.Fields{"version": bin.Version, "account": who.name})
	if major == 0 {
		log.Info("making the database")
		if err := initialise(ctx, bin, who, s.dataDir); err != nil {
			return err
		}
	}
	if s.socket == "" {
		s.socket = socketDir(s.dir, who)
	}
	if err := makeSocketDir(s.socket, who); err != nil {
		return err
	}
	if err := s.clearStale(ctx); err != nil {
		return err
	}
	pid, err := s.launch(ctx, bin, who, arguments(s.dataDir, s.socket, bin, who, s.settings))
	if err != nil {
		return err
	}
	log.WithField("pid", pid).Info("started Postgres")
	return nil
}

// clearStale makes way after a crash. Orphans that did not end by themselves
// are killed. Postgres does not start where a lock file is empty (the disk was
// full, or the plug was pulled), or where its number is some other process's by
// now; such a file is removed. Postgres' second interlock (the shared memory
// segment, keyed by the data directory's inode) still stands.
func (s *Server) clearStale(ctx context.Context) error {
	if err := endAll(ctx, s.dataDir, syscall.SIGKILL); err != nil {
		return fmt.Errorf("ending what a killed Postgres left in %s: %w", s.dataDir, err)
	}
	// The socket's lock says nothing that the other does not: its directory is ours alone.
	if err := removeSocketFiles(s.socket); err != nil {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	f, ok := readPidFile(s.dataDir)
	if ok && errors.Is(syscall.Kill(f.pid, 0), syscall.ESRCH) {
		return nil // Postgres sees that for itself
	}
	err := os.Remove(filepath.Join(s.dataDir, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	s.log.WithField("pid", f.pid).Info("removed a stale postmaster.pid: no process of this Postgres runs")
	return nil
}

// launch runs the server and waits until it answers. If it does not, it is ended.
func (s *Server) launch(ctx context.Context, bin Installed, who account, args []string) (int, error) {
	logPath := s.LogPath()
	if err := boundLog(logPath); err != nil {
		s.log.WithError(err).Warn("keeping the log of Postgres small")
	}
	logFile, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("starting Postgres: %w", err)
	}
	defer logFile.Close()
	var offset int64
	if info, err := logFile.Stat(); err == nil {
		offset = info.Size()
	}
	// Not CommandContext: the server outlives the context, and this process.
	cmd := exec.Command(filepath.Join(bin.BinDir, "postgres"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	who.prepare(cmd, s.dataDir)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting Postgres as user %s: %w", who.name, err)
	}
	ended := make(chan struct{})
	go func() { // reaps it whenever it ends
		_ = cmd.Wait()
		close(ended)
	}()
	err = s.awaitAnswer(ctx, func() error {
		select {
		case <-ended:
			return fmt.Errorf("it ended (%v): %s", cmd.ProcessState, lastLines(logSince(logPath, offset), 5))
		default:
			return nil
		}
	})
	if err != nil {
		err = fmt.Errorf("starting Postgres in %s: %w (log: %s)", s.dataDir, fullDisk(s.dataDir, logSince(logPath, offset), err), logPath)
		return 0, errors.Join(err, stop(context.WithoutCancel(ctx), s.dataDir), removeSocket(s.socket))
	}
	return cmd.Process.Pid, nil
}
