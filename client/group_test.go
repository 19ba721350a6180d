package client

import (
	"context"
	"testing"
	"time"
)

func TestRoutesOfGroupsAndRollouts(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	testRoutes(t, map[string]routeCase{
		"InstallationsOfAGroup": {func(ctx context.Context, c *Client) error {
			_, err := c.Installations.List(ctx, ListInstallations{Group: "web"})
			return err
		}, "GET /api/v1/installations?group=web", ""},
		"InstallationLeaves": {func(ctx context.Context, c *Client) error {
			leave := GroupName("")
			_, err := c.Installations.Update(ctx, "acme", UpdateInstallation{Group: &leave, KeepConfiguration: true})
			return err
		}, "PATCH /api/v1/installations/acme", `{"group":null,"keep_configuration":true}`},
		"InstallationJoins": {func(ctx context.Context, c *Client) error {
			join := GroupName("web")
			_, err := c.Installations.Update(ctx, "acme", UpdateInstallation{Group: &join, FromGroup: []string{"package"}})
			return err
		}, "PATCH /api/v1/installations/acme", `{"group":"web","from_group":["package"]}`},
		"GroupCreate": {func(ctx context.Context, c *Client) error {
			_, err := c.Groups.Create(ctx, CreateGroup{Name: "web", Package: "workspace"})
			return err
		}, "POST /api/v1/groups", `{"name":"web","package":"workspace"}`},
		"GroupGet": {func(ctx context.Context, c *Client) error { _, err := c.Groups.Get(ctx, "web"); return err }, "GET /api/v1/groups/web", ""},
		"GroupList": {func(ctx context.Context, c *Client) error {
			_, err := c.Groups.List(ctx, ListPage{Limit: 2})
			return err
		}, "GET /api/v1/groups?limit=2", ""},
		"GroupUpdate": {func(ctx context.Context, c *Client) error {
			none := 0
			_, err := c.Groups.Update(ctx, "web", UpdateGroup{Package: text("workspace@2"), MemoryMiB: &none}, IfMatch(3))
			return err
		}, "PATCH /api/v1/groups/web", `{"package":"workspace@2","memory_mib":0}`},
		"GroupDelete": {func(ctx context.Context, c *Client) error { return c.Groups.Delete(ctx, "web") }, "DELETE /api/v1/groups/web", ""},
		"GroupRevisions": {func(ctx context.Context, c *Client) error {
			_, err := c.Groups.Revisions(ctx, "web", ListPage{Cursor: "z"})
			return err
		}, "GET /api/v1/groups/web/revisions?cursor=z", ""},
		"RolloutCreate": {func(ctx context.Context, c *Client) error {
			_, err := c.Rollouts.Create(ctx, "web", CreateRollout{ToRevision: 2, RolloutSpec: RolloutSpec{Slots: 4, Soak: "1h"}, DryRun: true})
			return err
		}, "POST /api/v1/groups/web/rollouts", `{"to_revision":2,"slots":4,"soak":"1h"}`},
		"RolloutPlan": {func(ctx context.Context, c *Client) error {
			_, err := c.Rollouts.Plan(ctx, "web", CreateRollout{RolloutSpec: RolloutSpec{Metric: &MetricGate{URL: "http://p", Query: "q"}}})
			return err
		}, "POST /api/v1/groups/web/rollouts", `{"metric":{"url":"http://p","query":"q","max":0},"dry_run":true}`},
		"RolloutGet": {func(ctx context.Context, c *Client) error { _, err := c.Rollouts.Get(ctx, "r1"); return err }, "GET /api/v1/rollouts/r1", ""},
		"RolloutWait": {func(ctx context.Context, c *Client) error {
			_, err := c.Rollouts.Wait(ctx, "r1", time.Hour, 0)
			return err
		}, "GET /api/v1/rollouts/r1?wait=1m0s", ""},
		"RolloutWaitForAVersion": {func(ctx context.Context, c *Client) error {
			_, err := c.Rollouts.Wait(ctx, "r1", time.Second, 7)
			return err
		}, "GET /api/v1/rollouts/r1?version=7&wait=1s", ""},
		"RolloutList": {func(ctx context.Context, c *Client) error {
			_, err := c.Rollouts.List(ctx, ListRollouts{Group: "web", Limit: 1})
			return err
		}, "GET /api/v1/rollouts?group=web&limit=1", ""},
		"RolloutMembers": {func(ctx context.Context, c *Client) error {
			_, err := c.Rollouts.Members(ctx, "r1", ListRolloutMembers{State: "failed", Limit: 3})
			return err
		}, "GET /api/v1/rollouts/r1/members?limit=3&state=failed", ""},
		"RolloutPause":    {verb((*Rollouts).Pause), "POST /api/v1/rollouts/r1/pause", ""},
		"RolloutResume":   {verb((*Rollouts).Resume), "POST /api/v1/rollouts/r1/resume", ""},
		"RolloutForce":    {verb((*Rollouts).Force), "POST /api/v1/rollouts/r1/force", ""},
		"RolloutCancel":   {verb((*Rollouts).Cancel), "POST /api/v1/rollouts/r1/cancel", ""},
		"RolloutRollback": {verb((*Rollouts).Rollback), "POST /api/v1/rollouts/r1/rollback", ""},
		"RolloutRetry":    {verb((*Rollouts).Retry), "POST /api/v1/rollouts/r1/retry", ""},
	})
}

func verb(method func(*Rollouts, context.Context, string, ...RequestOption) (Rollout, error)) func(context.Context, *Client) error {
	return func(ctx context.Context, c *Client) error {
		_, err := method(c.Rollouts, ctx, "r1")
		return err
	}
}
