package chaos

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"dormouse/client"
)

func groupName(n int) string { return fmt.Sprintf("group-%d", n) }

func (t *tenant) createGroup(ctx context.Context, name string) {
	if t.ask(ctx, "create "+name, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
		_, err := c.Groups.Create(ctx, client.CreateGroup{Name: name, Package: packageRefs[0]}, key)
		return err
	}) == accepted {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.revisions[name] = 1
	}
}

// conduct makes new revisions of groups and brings them to the members, with
// all verbs, until during ends.
func (t *tenant) conduct(ctx, during context.Context) {
	for pause(during, time.Duration(1000+t.rng.IntN(3000))*time.Millisecond) {
		name := groupName(t.rng.IntN(2))
		t.revise(ctx, name)
		id := t.begin(ctx, name)
		if id == "" || !pause(during, time.Duration(t.rng.IntN(4000))*time.Millisecond) {
			continue
		}
		switch t.rng.IntN(6) {
		case 0:
			t.control(ctx, id, (*client.Rollouts).Pause)
			pause(during, time.Second)
			t.control(ctx, id, (*client.Rollouts).Resume)
		case 1:
			t.control(ctx, id, (*client.Rollouts).Cancel)
		case 2:
			t.control(ctx, id, (*client.Rollouts).Rollback)
		case 3:
			t.control(ctx, id, (*client.Rollouts).Force)
		}
	}
}

func (t *tenant) revise(ctx context.Context, name string) {
	ref, value := packageRefs[t.rng.IntN(2)], strconv.Itoa(t.counter)
	if t.ask(ctx, "revise "+name, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
		_, err := c.Groups.Update(ctx, name, client.UpdateGroup{Package: &ref, Env: map[string]*string{"REVISION": &value}}, key)
		return err
	}) == accepted {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.revisions[name]++
	}
}

// begin begins a rollout and returns its ID; "" where it was refused.
func (t *tenant) begin(ctx context.Context, group string) (id string) {
	in := client.CreateRollout{RolloutSpec: client.RolloutSpec{Slots: 4, VerifySlots: 2, HealthyFor: "200ms", HealthDeadline: "20s", Soak: "0s",
		AutoRollback: t.rng.IntN(2) == 0}}
	if t.ask(ctx, "rollout of "+group, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
		ro, err := c.Rollouts.Create(ctx, group, in, key)
		id = ro.ID
		return err
	}) == accepted {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.rollouts = append(t.rollouts, id)
		return id
	}
	return ""
}

type rolloutVerb = func(*client.Rollouts, context.Context, string, ...client.RequestOption) (client.Rollout, error)

func (t *tenant) control(ctx context.Context, id string, do rolloutVerb) {
	t.ask(ctx, "a verb of rollout "+id, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
		_, err := do(c.Rollouts, ctx, id, key)
		return err
	})
}
