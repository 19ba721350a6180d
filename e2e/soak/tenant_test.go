package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// tenant asks for one thing after the other, and knows what must be true after each.
type tenant struct {
	env    *harness.Environment
	client *client.Client
	name   string
	random *rand.Rand
	// wanted is the kind of operation that is to be hit next.
	wanted *atomic.Pointer[target]
	// asked is told the kind of every request, right before it is sent.
	asked    chan<- string
	packages [2]string

	// What is asked for now.
	state   string // "", stable, hibernating or update-failed
	pkg     int
	disk    int
	lives   int
	history []string
}

// actions are what can be asked for in a state, by kind of operation.
func (t *tenant) actions() []string {
	switch t.state {
	case "":
		return []string{"create"}
	case "hibernating":
		return []string{"wake", "wake", "wake", "delete"}
	case "update-failed":
		return []string{"mend"}
	}
	return []string{"hibernate", "hibernate", "restart", "update", "grow", "spoil", "delete"}
}

// kinds says which kind of operation each action is.
func kindOf(action string) string {
	switch action {
	case "grow", "spoil", "mend":
		return "update"
	}
	return action
}

// next chooses an action, with a bias to what leads to the wanted step.
func (t *tenant) next() string {
	choice := t.actions()
	if w := t.wanted.Load(); w != nil && t.random.IntN(4) > 0 {
		likely := slices.DeleteFunc(slices.Clone(choice), func(a string) bool { return !w.leadsTo(a) })
		if len(likely) > 0 {
			choice = likely
		} else if w.kind == "create" && slices.Contains(choice, "delete") {
			return "delete"
		} else if w.kind == "wake" && slices.Contains(choice, "hibernate") {
			return "hibernate"
		}
	}
	return choice[t.random.IntN(len(choice))]
}

// live acts until ctx ends, and finishes what it has begun.
func (t *tenant) live(ctx context.Context, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		action := t.next()
		t.history = append(t.history, action)
		if err := t.do(ctx, action); err != nil {
			return fmt.Errorf("tenant %s: %s (after %v): %w", t.name, action, t.history[max(0, len(t.history)-6):], err)
		}
	}
}

func (t *tenant) do(ctx context.Context, action string) error {
	select {
	case t.asked <- kindOf(action):
	default:
	}
	in, err := t.ask(ctx, action)
	if err != nil {
		return err
	}
	if in.Operation == nil {
		return errors.New("the answer names no operation")
	}
	op, err := t.client.Operations.Follow(ctx, in.Operation.ID, nil)
	if err != nil {
		return fmt.Errorf("following the operation: %w", err)
	}
	if action == "spoil" {
		if op.State != "failed" || op.FailReason != "crash-loop" {
			return fmt.Errorf("a release that ends at once must fail as a crash loop: %s %s %s", op.State, op.FailReason, op.Error)
		}
		t.state = "update-failed"
		return t.look(ctx)
	}
	if op.State != "succeeded" {
		return fmt.Errorf("operation %s is %s at step %s: %s: %s", op.ID, op.State, op.Step, op.FailReason, op.Error)
	}
	t.state = map[string]string{"hibernate": "hibernating", "delete": ""}[action]
	if t.state == "" && action != "delete" {
		t.state = "stable"
	}
	if action == "create" {
		a, err := t.env.Visit(ctx, t.name, "POST", "/api/notes", fmt.Sprintf(`{"text": %q}`, t.note()))
		for err != nil || a.Status != 201 {
			// The gateway is away while the provisioner is. A note twice is no harm.
			if err := sleep(ctx, 200*time.Millisecond); err != nil {
				return fmt.Errorf("writing a note: %w, %d %s", err, a.Status, a.Body)
			}
			a, err = t.env.Visit(ctx, t.name, "POST", "/api/notes", fmt.Sprintf(`{"text": %q}`, t.note()))
		}
	}
	return t.look(ctx)
}

// ask sends the request of an action. The client repeats it, under one
// idempotency key, for as long as the provisioner is away.
func (t *tenant) ask(ctx context.Context, action string) (client.Installation, error) {
	all := t.client.Installations
	switch action {
	case "create":
		t.pkg, t.disk, t.lives = 0, 32, t.lives+1
		return all.Create(ctx, client.CreateInstallation{Name: t.name, Owner: "soak", Package: t.packages[0], Cluster: harness.Cluster,
			MemoryMiB: 128, DiskMiB: t.disk})
	case "update":
		t.pkg = 1 - t.pkg
		return all.Update(ctx, t.name, client.UpdateInstallation{Package: &t.packages[t.pkg]})
	case "grow":
		t.disk += 8
		return all.Update(ctx, t.name, client.UpdateInstallation{DiskMiB: &t.disk})
	case "spoil":
		code := "3"
		return all.Update(ctx, t.name, client.UpdateInstallation{Env: map[string]*string{"EXIT_CODE": &code}})
	case "mend":
		return all.Update(ctx, t.name, client.UpdateInstallation{Env: map[string]*string{"EXIT_CODE": nil}})
	case "restart":
		return all.Restart(ctx, t.name)
	case "hibernate":
		return all.Hibernate(ctx, t.name)
	case "wake":
		return all.Wake(ctx, t.name)
	}
	return all.Delete(ctx, t.name)
}

func (t *tenant) note() string { return fmt.Sprintf("%s, life %d", t.name, t.lives) }

// look sees that the installation is in the state that was asked for, and that
// one that runs answers with its release and its data.
func (t *tenant) look(ctx context.Context) error {
	in, err := t.client.Installations.Get(ctx, t.name)
	if t.state == "" {
		if !client.IsNotFound(err) {
			return fmt.Errorf("it is deleted, and yet: %s %v", in.State, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if in.State != t.state {
		return fmt.Errorf("it is %s (%s: %s) and should be %s", in.State, in.StateReason, in.StateDetail, t.state)
	}
	if t.state == "hibernating" {
		return nil
	}
	var info struct{ Version string }
	if err := t.env.AwaitAnswer(ctx, t.name, "/api/info", &info); err != nil {
		return err
	}
	if want := t.packages[t.pkg]; in.RunningPackage != want || "workspace@"+info.Version != want {
		return fmt.Errorf("it runs %s and shows %s, and should be %s", info.Version, in.RunningPackage, want)
	}
	var notes []struct{ Text string }
	if err := t.env.AwaitAnswer(ctx, t.name, "/api/notes", &notes); err != nil {
		return err
	}
	for _, n := range notes {
		if n.Text == t.note() {
			return nil
		}
	}
	return fmt.Errorf("its note is gone: there are %v", notes)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
