package powercut

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// end ends a victim at once, and starts again what does not start by itself.
func (x *run) end(ctx context.Context, victim string) error {
	x.ended[victim]++
	switch victim {
	case "power":
		if err := x.env.PowerOff(); err != nil {
			return fmt.Errorf("ending everything: %w", err)
		}
		x.disk.Cut()
		if err := x.disk.Restart(); err != nil {
			return err
		}
		return x.env.Start(ctx)
	case "provisioner":
		if err := x.env.End(syscall.SIGKILL); err != nil {
			return err
		}
		return x.env.Start(ctx)
	case "postgres":
		pid, err := x.env.Postmaster()
		if err != nil {
			return err
		}
		if err := kill(pid); err != nil {
			return err
		}
		return x.env.AwaitReady(ctx)
	}
	// Either of the two while one verifies the other.
	victims := append(machines(x.instance), verifiers(x.instance)...)
	if len(victims) > 1 {
		victims = victims[x.random.IntN(len(victims)):][:1]
	}
	for _, pid := range victims {
		if err := kill(pid); err != nil {
			return err
		}
	}
	return nil
}

func kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing process %d: %w", pid, err)
	}
	return nil
}
