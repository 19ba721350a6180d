package remote

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// Ensure implements the provider.
func (c *Client) Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	return call[fleet.InstanceStatus](ctx, c, callEnsure, string(spec.ID), slim(spec))
}

// Clone implements the provider.
func (c *Client) Clone(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	return call[fleet.InstanceStatus](ctx, c, callClone, string(spec.ID), slim(spec))
}

// Observe implements the provider.
func (c *Client) Observe(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	return call[fleet.InstanceStatus](ctx, c, callObserve, string(ref.ID), ref)
}

// Power implements the provider.
func (c *Client) Power(ctx context.Context, ref fleet.InstanceRef, target fleet.Power) (fleet.InstanceStatus, error) {
	return call[fleet.InstanceStatus](ctx, c, callPower, string(ref.ID), powerArgs{ref, target})
}

// Suspend implements the provider.
func (c *Client) Suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (fleet.InstanceStatus, error) {
	return call[fleet.InstanceStatus](ctx, c, callSuspend, string(ref.ID), suspendArgs{ref, o})
}

// EndSleep implements the provider.
func (c *Client) EndSleep(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	return call[fleet.InstanceStatus](ctx, c, callEndSleep, string(ref.ID), ref)
}

// Delete implements the provider.
func (c *Client) Delete(ctx context.Context, ref fleet.InstanceRef) error {
	_, err := call[none](ctx, c, callDelete, string(ref.ID), ref)
	return err
}

// List implements the provider.
func (c *Client) List(ctx context.Context, cluster fleet.ClusterID, after string) (page []fleet.InstanceStatus, next string, err error) {
	out, err := call[listResult](ctx, c, callList, string(cluster), listArgs{cluster, after})
	return out.Page, out.Next, err
}

// EnsureVolume implements the provider.
func (c *Client) EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (fleet.VolumeStatus, error) {
	return call[fleet.VolumeStatus](ctx, c, callEnsureVolume, string(spec.ID), spec)
}

// MoveVolume implements the provider.
func (c *Client) MoveVolume(ctx context.Context, ref fleet.VolumeRef, to fleet.HostID) (fleet.VolumeStatus, error) {
	return call[fleet.VolumeStatus](ctx, c, callMoveVolume, string(ref.ID), moveVolumeArgs{ref, to})
}

// BeginOverlay implements the provider.
func (c *Client) BeginOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	_, err := call[none](ctx, c, callBeginOverlay, string(ref.ID), ref)
	return err
}

// CommitOverlay implements the provider.
func (c *Client) CommitOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	_, err := call[none](ctx, c, callCommitOverlay, string(ref.ID), ref)
	return err
}

// DropOverlay implements the provider.
func (c *Client) DropOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	_, err := call[none](ctx, c, callDropOverlay, string(ref.ID), ref)
	return err
}

// DeleteVolume implements the provider.
func (c *Client) DeleteVolume(ctx context.Context, ref fleet.VolumeRef) error {
	_, err := call[none](ctx, c, callDeleteVolume, string(ref.ID), ref)
	return err
}

// ListVolumes implements the provider.
func (c *Client) ListVolumes(ctx context.Context, cluster fleet.ClusterID) ([]fleet.VolumeStatus, error) {
	return call[[]fleet.VolumeStatus](ctx, c, callListVolumes, string(cluster), cluster)
}

// Check implements the provider.
func (c *Client) Check(ctx context.Context, cluster fleet.Cluster) (fleet.CheckReport, error) {
	return call[fleet.CheckReport](ctx, c, callCheck, string(cluster.ID), cluster)
}

// Configure makes a cluster known, or gives it other settings, for all
// processes that share the simulator.
func (c *Client) Configure(ctx context.Context, cluster fleet.Cluster) error {
	_, err := call[none](ctx, c, callConfigure, string(cluster.ID), cluster)
	return err
}

// SetExit ends an instance as if its program had ended by itself.
func (c *Client) SetExit(ctx context.Context, id fleet.InstanceID, exit fleet.Exit) error {
	_, err := call[none](ctx, c, callSetExit, string(id), setExitArgs{id, exit})
	return err
}

// SetHealth changes what the health check of an instance that is on says.
func (c *Client) SetHealth(ctx context.Context, id fleet.InstanceID, health fleet.HealthState, detail string) error {
	_, err := call[none](ctx, c, callSetHealth, string(id), setHealthArgs{id, health, detail})
	return err
}

// Totals sums up the simulator's ledger.
func (c *Client) Totals(ctx context.Context) (sim.Totals, error) {
	var t sim.Totals
	err := c.do(ctx, http.MethodGet, "/ledger", nil, &t)
	return t, err
}

// Ledger returns the calls with a higher Seq than after, oldest first, as far as
// they are still kept.
func (c *Client) Ledger(ctx context.Context, after uint64) ([]sim.Entry, error) {
	var entries []sim.Entry
	err := c.do(ctx, http.MethodGet, fmt.Sprintf("/ledger/entries?after=%d", after), nil, &entries)
	return entries, err
}

// Leaks compares all of the simulator's clusters with what ought to be there.
func (c *Client) Leaks(ctx context.Context, known sim.Known) (sim.Leaks, error) {
	var out answer[sim.Leaks]
	if err := c.do(ctx, http.MethodPost, "/ledger/leaks", known, &out); err != nil {
		return sim.Leaks{}, err
	}
	return out.Result, out.Error.decode()
}

// Console implements the provider.
func (c *Client) Console(ctx context.Context, ref fleet.InstanceRef, options fleet.ConsoleOptions) (io.ReadCloser, error) {
	response, err := c.send(ctx, http.MethodPost, "/console", consoleArgs{ref, options})
	if err != nil {
		return nil, describe(err, "reading the console of instance", string(ref.ID))
	}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain") {
		return console{ctx, response.Body}, nil
	}
	defer response.Body.Close()
	var out answer[none]
	if err := c.receive(ctx, response, &out); err != nil {
		return nil, describe(err, "reading the console of instance", string(ref.ID))
	}
	return nil, out.Error.decode()
}

// console ends without an error when its context does, as the simulator's own.
type console struct {
	ctx context.Context
	io.ReadCloser
}

// Read implements io.Reader.
func (c console) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if err != nil && c.ctx.Err() != nil {
		err = io.EOF
	}
	return n, err
}
