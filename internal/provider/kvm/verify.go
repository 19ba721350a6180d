package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dormouse/internal/provider/kvm/qmp"
)

// verify loads what has been saved into a second QEMU, which has the same
// devices and runs no instruction: with a private view of the memory, a port that
// leads nowhere, and disks that it never writes to. It has ended when verify returns.
// Needs the lock, and that the machine that was saved is stopped.
func (i *instance) verify(ctx context.Context) (r *prepared, err error) {
	defer i.removeVerifySockets()
	r, err = i.prepare(ctx, toVerify)
	if err != nil {
		return r, err
	}
	defer r.files.close()
	state, err := os.Open(i.statePath())
	if err != nil {
		return r, err
	}
	from := r.files.add(state)
	cmd := i.command(r)
	var said limitedBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return r, fmt.Errorf("starting QEMU: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if words := strings.TrimSpace(said.String()); err != nil && words != "" {
			err = fmt.Errorf("%w: %s", err, words)
		}
	}()
	conn, err := dialSocket(ctx, i.dir(), verifyQMPSocket)
	if err != nil {
		return r, err
	}
	told := make(chan string, 16)
	client, err := qmp.New(ctx, conn, func(e qmp.Event) { migrationEvent(e, told) })
	if err != nil {
		return r, err
	}
	defer client.Close()
	c := control{Client: client, told: told}
	// The disks are left to the machine that was saved.
	if err := c.beginLoad(ctx, from, "late-block-activate"); err != nil {
		return r, err
	}
	if err := c.awaitMigration(ctx); err != nil {
		return r, err
	}
	st, err := c.status(ctx)
	if err == nil && st.Status != statusPaused {
		err = errors.New("QEMU is " + st.Status + " after loading it")
	}
	return r, err
}

func (i *instance) removeVerifySockets() {
	for _, name := range []string{verifyQMPSocket, verifyChannelSocket} {
		_ = os.Remove(filepath.Join(i.dir(), name))
	}
}

// limitedBuffer keeps the beginning of what a program says.
type limitedBuffer struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	const limit = 4 << 10
	b.Buffer.Write(p[:min(len(p), max(0, limit-b.Len()))])
	return len(p), nil
}
