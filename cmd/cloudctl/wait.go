package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

// waiting are the flags of every command that starts an operation.
type waiting struct {
	wait    bool
	timeout time.Duration
	// seen is told of each look at the operation, too; may be nil.
	seen func(client.Operation)
}

const (
	standardTimeout = 5 * time.Minute
	// finalRead bounds reading the result after a wait that used up its own time.
	finalRead = 15 * time.Second
)

func (w *waiting) flags(cmd *cobra.Command) { w.flagsWithin(cmd, standardTimeout) }

// flagsWithin is flags for what may take longer.
func (w *waiting) flagsWithin(cmd *cobra.Command, timeout time.Duration) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait for the end and show the steps as they pass")
	cmd.Flags().DurationVar(&w.timeout, "timeout", timeout, "how long --wait waits, a `DURATION` such as 90s or 1h; the work goes on after it")
}

// follow waits for the operation if asked to, showing its steps. It returns
// an *operationError if the operation, or the wait, did not end well.
func (a *app) follow(ctx context.Context, c *client.Client, op *client.Operation, w waiting) error {
	if !w.wait {
		return nil
	}
	if op == nil || op.ID == "" {
		return errors.New("waiting for the end: the server named no operation; look at it with get")
	}
	if w.timeout <= 0 {
		return usagef("--timeout %s: give a time above 0, such as 5m", w.timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	shown := a.startProgress()
	shown.seen(*op)
	last, err := c.Operations.Follow(ctx, op.ID, func(op client.Operation) {
		shown.seen(op)
		if w.seen != nil {
			w.seen(op)
		}
	})
	shown.stop()
	if last.ID == "" {
		last = *op
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return &operationError{operation: last, waiting: context.Cause(ctx)}
	case err != nil:
		return fmt.Errorf("following operation %s: %w", op.ID, err)
	case last.State != "succeeded":
		return &operationError{operation: last}
	}
	return nil
}

// settled reads what a change led to, and prints it. failed is how waiting
// ended; it is returned after the result, so that a script has both. accepted
// is shown where nothing was waited for, or nothing newer can be read.
func settled[T any](ctx context.Context, a *app, w waiting, failed error, accepted T, read func(context.Context) (T, error), show func(T) error) error {
	result := accepted
	var stopped *operationError
	interruptedNow := errors.As(failed, &stopped) && stopped.waiting != nil
	if w.wait && !interruptedNow && (failed == nil || stopped != nil) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalRead)
		defer cancel()
		latest, err := read(ctx)
		switch {
		case err == nil:
			result = latest
		case failed == nil:
			return fmt.Errorf("the operation has succeeded; reading the result: %w", err)
		}
	}
	if interruptedNow || failed != nil && stopped == nil {
		return failed
	}
	return errors.Join(failed, show(result))
}
