package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// benchGateway measures the gateway against nginx, each on one core.
func benchGateway(ctx context.Context, b *bench) error {
	cmd := exec.CommandContext(ctx, "go", "run", "./bench/passthrough", "-compare", "-pairs", strconv.Itoa(pick(b, 30, 3)))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("comparing with nginx (it takes nginx, wrk and taskset, and the module's directory): %w", err)
	}
	return nil
}
