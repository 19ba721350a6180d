package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"dormouse/internal/provider/kvm/qmp"
)

// What QEMU says of a migration, by which it saves and loads (qapi/migration.json,
// MigrationStatus), and of a machine (qapi/run-state.json, RunState).
const (
	migrationCompleted = "completed"
	migrationFailed    = "failed"
	migrationCancelled = "cancelled"

	statusPaused   = "paused"
	statusIncoming = "inmigrate"
)

// maxBandwidth is no bound, in bytes a second.
const maxBandwidth = 1 << 40

// errQEMUEnded is what is left to say of a QEMU that does not answer any more.
var errQEMUEnded = fmt.Errorf("QEMU has ended: %w", qmp.ErrClosed)

// control is a QEMU to save and load with.
type control struct {
	*qmp.Client
	// told gets the status of each of its migrations.
	told <-chan string
}

// migrationEvent passes the status of a MIGRATION event on, where somebody listens.
func migrationEvent(e qmp.Event, told chan<- string) {
	if e.Name != "MIGRATION" {
		return
	}
	var data struct {
		Status string `json:"status"`
	}
	_ = json.Unmarshal(e.Data, &data)
	select {
	case told <- data.Status:
	default: // more than any save or load has
	}
}

// prepareMigration sets what saver and loader must both have: the memory lies in
// its file and is not part of the state, and the end is told.
func (c control) prepareMigration(ctx context.Context, more ...string) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	var all []capability
	for _, name := range append(more, "x-ignore-shared", "events") {
		all = append(all, capability{name, true})
	}
	return c.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": all}, nil)
}

// save writes the state of a stopped machine to a file.
func (c control) save(ctx context.Context, to *os.File) error {
	for len(c.told) > 0 {
		<-c.told // of a save that was called off
	}
	if err := c.prepareMigration(ctx); err != nil {
		return err
	}
	if err := c.Execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(maxBandwidth)}, nil); err != nil {
		return err
	}
	if err := c.ExecuteWith(ctx, to, "getfd", map[string]any{"fdname": "state"}, nil); err != nil {
		return err
	}
	if err := c.Execute(ctx, "migrate", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	return c.awaitMigration(ctx)
}

// beginLoad has the state read from the file that QEMU has inherited by that
// number; awaitMigration waits for the end of that.
func (c control) beginLoad(ctx context.Context, from int, more ...string) error {
	if err := c.prepareMigration(ctx, more...); err != nil {
		return err
	}
	return c.Execute(ctx, "migrate-incoming", map[string]any{"uri": fmt.Sprintf("fd:%d", from)}, nil)
}

func (c control) awaitMigration(ctx context.Context) error {
	for {
		select {
		case status := <-c.told:
			switch status {
			case migrationCompleted:
				return nil
			case migrationFailed, migrationCancelled:
				return c.migrationError(ctx, status)
			}
		case <-c.Done():
			return errQEMUEnded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// migrationError asks for the cause.
func (c control) migrationError(ctx context.Context, status string) error {
	var answer struct {
		Error string `json:"error-desc"`
	}
	if err := c.Execute(ctx, "query-migrate", nil, &answer); err != nil || answer.Error == "" {
		return fmt.Errorf("QEMU says that it has %s", status)
	}
	return errors.New(answer.Error)
}

// machineStatus is whether the guest runs, and the run state.
type machineStatus struct {
	Running bool   `json:"running"`
	Status  string `json:"status"`
}

func (c control) status(ctx context.Context) (st machineStatus, err error) {
	err = c.Execute(ctx, "query-status", nil, &st)
	return st, err
}

// goOn lets a stopped machine run, also one whose state was being saved.
func (c control) goOn(ctx context.Context) error {
	// Nothing to cancel is no error; what is cancelled has given the disks back when it is over.
	if err := c.Execute(ctx, "migrate_cancel", nil, nil); err != nil {
		return err
	}
	var migration struct {
		Status string `json:"status"`
	}
	for {
		if err := c.Execute(ctx, "query-migrate", nil, &migration); err != nil {
			return err
		}
		if migration.Status != "cancelling" && migration.Status != "active" && migration.Status != "setup" && migration.Status != "device" {
			return c.Execute(ctx, "cont", nil, nil)
		}
		select {
		case <-c.told:
		case <-c.Done():
			return qmp.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
