package kvm

import (
	"context"
	"errors"
	"strings"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// traceCluster is the cluster of machines that belong to none: no sweep sees them.
const traceCluster fleet.ClusterID = "trace"

// isolated is a network on which there is nobody else. QEMU answers DHCP there.
func isolated() hostnet.Attachment {
	return hostnet.Attachment{NetdevArgs: func(int) string { return "user,id=net0,restrict=on" }}
}

// TraceReport is what a traced boot has told.
type TraceReport struct {
	// Lines are its console, oldest first.
	Lines []string
	// Exit tells how it ended by itself; nil where it ran until the time was over.
	Exit *fleet.Exit
}

// Trace boots a throw-away machine of the image, without volume and network, whose console
// tells every system call, for at most that long, and removes it. One at a time
// on a host: more wait. What of spec is not about the machine is ignored.
func (p *Provider) Trace(ctx context.Context, spec fleet.InstanceSpec, atMost time.Duration) (report TraceReport, err error) {
	select {
	case p.tracing <- struct{}{}:
		defer func() { <-p.tracing }()
	case <-ctx.Done():
		return report, fleet.Errorf(fleet.KindUnavailable, "waiting for another trace to end: %w", ctx.Err())
	}
	spec.ID, spec.ClusterID, spec.Trace, spec.Epoch = fleet.InstanceID(fleet.NewID()), traceCluster, true, 1
	spec.Volume, spec.Network, spec.Manifest.Restart = nil, nil, fleet.RestartNever
	ref := fleet.InstanceRef{ID: spec.ID, ClusterID: traceCluster, Epoch: spec.Epoch}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWait)
		defer cancel()
		err = errors.Join(err, p.Delete(ctx, ref), p.forget(spec.ID))
	}()
	if _, err := p.Ensure(ctx, spec); err != nil {
		return report, err
	}
	i := p.known(spec.ID)
	if err := i.lock(ctx); err != nil {
		return report, err
	}
	v := i.vm
	i.unlock()
	if v != nil {
		over := time.NewTimer(atMost)
		defer over.Stop()
		select {
		case <-v.exited:
		case <-over.C:
		case <-ctx.Done():
			return report, fleet.Errorf(fleet.KindUnavailable, "tracing: %w", ctx.Err())
		}
	}
	if err := i.lock(ctx); err != nil {
		return report, err
	}
	defer i.unlock()
	if i.vm == nil {
		report.Exit = i.rec.Exit
	}
	report.Lines, err = i.console().lastBoot()
	return report, err
}

// forget removes the tombstone of an instance whose ID nobody else has had.
func (p *Provider) forget(id fleet.InstanceID) error {
	p.mu.Lock()
	delete(p.instances, id)
	p.mu.Unlock()
	return p.instanceJournal.remove(string(id))
}

// Boot is what is known of an instance's last boot.
type Boot struct {
	// Spec is what the instance is made of.
	Spec fleet.InstanceSpec
	// Log is its console, where the guest has no init of ours that tells what happens.
	Log string
	// Exit tells how it ended; nil while it runs.
	Exit *fleet.Exit
	// Served: the health check has been answered once since this process knows the
	// instance, in this boot or before.
	Served bool
}

// Boot returns the last boot of an instance. KindNotFound: this host has no such instance.
func (p *Provider) Boot(ctx context.Context, id fleet.InstanceID) (_ Boot, err error) {
	i := p.known(id)
	if i == nil {
		return Boot{}, errUnknown(id)
	}
	if err := i.lock(ctx); err != nil {
		return Boot{}, err
	}
	defer i.unlock()
	if !i.exists() {
		return Boot{}, errUnknown(id)
	}
	b := Boot{Spec: *i.rec.Spec, Served: i.served.Load()}
	if b.Spec.Kernel.Silent() {
		var lines []string
		lines, err = i.console().lastBoot()
		b.Log = strings.Join(lines, "\n")
	}
	if i.vm == nil && i.rec.Exit != nil {
		exit := *i.rec.Exit
		b.Exit = &exit
	}
	return b, err
}
