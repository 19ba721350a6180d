package powercut

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// tenant is the installation that all happens to, and what it has promised.
type tenant struct {
	env    *harness.Environment
	client *client.Client
	name   string

	mu   sync.Mutex
	next int
	// acknowledged are the texts of notes that are there for good, and their IDs;
	// uncertain those whose answer did not arrive; removed those that are gone for good.
	acknowledged map[string]int64
	uncertain    map[string]bool
	removed      map[string]bool
	written      int
}

type note struct {
	ID   int64
	Text string
}

// write writes one note, and notes what was promised. The error is that of the
// way to it; there was no promise then.
func (t *tenant) write(ctx context.Context) error {
	t.mu.Lock()
	t.next++
	text := fmt.Sprintf("note %06d", t.next)
	t.uncertain[text] = true
	t.mu.Unlock()
	a, err := t.env.Visit(ctx, t.name, "POST", "/api/notes", fmt.Sprintf(`{"text": %q}`, text))
	if err != nil {
		return err
	}
	if a.Status != 201 {
		return fmt.Errorf("writing a note: %d %.200s", a.Status, a.Body)
	}
	var n note
	if err := a.Decode(&n); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.uncertain, text)
	t.acknowledged[text] = n.ID
	t.written++
	return nil
}

// writeUntil writes one note after the other until ctx ends.
func (t *tenant) writeUntil(ctx context.Context) {
	for ctx.Err() == nil {
		// One that was begun is waited for: it may yet be acknowledged.
		if t.write(context.WithoutCancel(ctx)) != nil {
			pause(ctx, 50*time.Millisecond)
		}
	}
}

// verify compares the notes that are there with what was promised. It waits
// until the installation answers.
func (t *tenant) verify(ctx context.Context) error {
	var notes []note
	if err := t.env.AwaitAnswer(ctx, t.name, "/api/notes", &notes); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	there := map[string]int{}
	for _, n := range notes {
		there[n.Text]++
		switch {
		case there[n.Text] > 1:
			return fmt.Errorf("%q is there twice", n.Text)
		case t.removed[n.Text]:
			return fmt.Errorf("%q was removed, and is there", n.Text)
		}
		if t.uncertain[n.Text] { // from now on it must stay
			delete(t.uncertain, n.Text)
			t.acknowledged[n.Text] = n.ID
		} else if _, ok := t.acknowledged[n.Text]; !ok {
			return fmt.Errorf("nobody wrote %q", n.Text)
		}
	}
	for text := range t.acknowledged {
		if there[text] == 0 {
			return fmt.Errorf("%q was acknowledged, and is gone: %d of %d are there", text, len(notes), len(t.acknowledged))
		}
	}
	return nil
}

// thin removes notes, which the workspace keeps 1,000 of. It must be awake and left alone.
func (t *tenant) thin(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for text, id := range t.acknowledged {
		if len(t.acknowledged) <= 100 {
			break
		}
		a, err := t.env.Visit(ctx, t.name, "DELETE", fmt.Sprintf("/api/notes/%d", id), "")
		if err != nil || a.Status != 204 {
			return fmt.Errorf("removing a note: %d %w", a.Status, err)
		}
		delete(t.acknowledged, text)
		t.removed[text] = true
	}
	return nil
}

func (t *tenant) count() (acknowledged, written int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.acknowledged), t.written
}

// booted tells when the tenant's program began: a boot is a new time.
func (t *tenant) booted(ctx context.Context) (time.Time, error) {
	var info struct {
		BootedAt time.Time `json:"booted_at"`
	}
	err := t.env.AwaitAnswer(ctx, t.name, "/api/info", &info)
	return info.BootedAt, err
}

// state tells the state, once nothing is under way.
func (t *tenant) state(ctx context.Context) (client.Installation, error) {
	for {
		in, err := t.client.Installations.Get(ctx, t.name)
		if err != nil {
			return in, err
		}
		if op := in.Operation; op == nil || op.State != "active" && op.State != "queued" {
			return in, nil
		}
		if pause(ctx, 50*time.Millisecond) {
			return in, fmt.Errorf("waiting for %s, which is %s: %w", t.name, in.State, ctx.Err())
		}
	}
}

// become asks for a state until it is reached, at most so often.
func (t *tenant) become(ctx context.Context, want string, tries int) error {
	for ; ; tries-- {
		in, err := t.state(ctx)
		if err != nil || in.State == want {
			return err
		}
		if tries == 0 {
			return fmt.Errorf("%s is %s (%s: %s) and not %s", t.name, in.State, in.StateReason, in.StateDetail, want)
		}
		if err := t.ask(ctx, in.State, want); err != nil {
			return err
		}
	}
}

// ask asks for what leads from one state to another, and follows it to its end.
func (t *tenant) ask(ctx context.Context, from, want string) error {
	all := t.client.Installations
	request := all.Wake
	switch {
	case want == "hibernating":
		request = all.Hibernate
	case from != "hibernating" && from != "wake-up-failed" && from != "hibernation-failed":
		request = all.Restart
	}
	in, err := request(ctx, t.name)
	if client.IsNotAccepted(err) || client.IsConflict(err) { // something else came before
		return nil
	}
	if err != nil {
		return err
	}
	if in.Operation == nil {
		body, _ := json.Marshal(in)
		return fmt.Errorf("the answer names no operation: %s", body)
	}
	_, err = t.client.Operations.Follow(ctx, in.Operation.ID, nil)
	return err
}

// pause waits, and tells whether ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-ctx.Done():
		return true
	}
}
