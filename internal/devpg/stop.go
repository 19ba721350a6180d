package devpg

import (
	"context"
	"fmt"
	"syscall"
)

// Stop ends the server: a fast shutdown first, an immediate one (from which it
// recovers as from a crash, losing nothing) when that takes longer than
// fastTimeout or ctx ends. It returns nil once no process and no socket of it is
// left, also where none ran. Watch ends first.
func (s *Server) Stop(ctx context.Context) error {
	s.Close()
	// The lock is worth a short wait even where ctx has ended: the caller is going away.
	lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	unlock, err := lockDir(lctx, s.dir)
	if err != nil {
		return fmt.Errorf("stopping Postgres: %w", err)
	}
	defer unlock()
	if err := stop(ctx, s.dataDir); err != nil {
		return err
	}
	if err := removeSocket(s.socket); err != nil {
		return fmt.Errorf("stopping Postgres: %w", err)
	}
	s.log.Info("stopped Postgres")
	return nil
}

// stop ends whatever runs in dataDir. The caller holds the lock.
func stop(ctx context.Context, dataDir string) error {
	fast, cancel := context.WithTimeout(ctx, fastTimeout)
	defer cancel()
	err := signalPostmaster(fast, dataDir, syscall.SIGINT)
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		if err == nil {
			break
		}
		// Beyond ctx: what was begun must be finished.
		hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		if sig == syscall.SIGKILL {
			err = endAll(hard, dataDir, sig)
		} else {
			err = signalPostmaster(hard, dataDir, sig)
		}
		cancel()
	}
	if err != nil {
		return fmt.Errorf("stopping Postgres in %s: processes %v are left: end them with kill -9: %w", dataDir, processes(dataDir), err)
	}
	return nil
}

// signalPostmaster signals the postmaster and waits until all of it has ended.
// With no postmaster (it was killed), its orphans are ended.
func signalPostmaster(ctx context.Context, dataDir string, sig syscall.Signal) error {
	f, ok := postmaster(dataDir)
	if !ok {
		return endAll(ctx, dataDir, syscall.SIGQUIT)
	}
	p, ok, err := openProcess(f.pid, dataDir)
	if err != nil {
		return err
	}
	if ok {
		defer p.close()
		if err := p.signal(sig); err != nil {
			return err
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return awaitAll(ctx, dataDir)
}
