package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dormouse/client"
)

// Beside is a second provisioner on the same database.
type Beside struct {
	Client *client.Client
	cmd    *exec.Cmd
}

// Beside starts a provisioner with role api on this environment's database, with
// its key and further arguments, and waits until it is ready. It writes to the same log.
func (e *Environment) Beside(ctx context.Context, args ...string) (*Beside, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	database, err := os.ReadFile(filepath.Join(e.DataDir, "database-url"))
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(e.LogPath(), os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	b := &Beside{cmd: exec.Command(filepath.Join(e.tools.bin, "provisioner"), append([]string{
		"server", "--roles", "api", "--database", strings.TrimSpace(string(database)), "--data-dir", filepath.Join(e.Base, "beside"), "--listen", address,
		"--secret-key-file", filepath.Join(e.DataDir, "secret.key"), "--kernel-packages", e.kernel}, args...)...)}
	b.cmd.Dir, b.cmd.Stdout, b.cmd.Stderr = "/", log, log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if b.Client, err = client.New("http://"+address, client.Options{Attempts: 1}); err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a second provisioner: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for b.Client.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for the second provisioner: %w", ctx.Err()), b.End())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return b, nil
}

// End ends it and waits for that.
func (b *Beside) End() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return b.cmd.Wait()
}
