package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/nanos"
	"dormouse/internal/provider/kvm"
)

// evidence records what the boots of guests that can't speak for themselves tell
// of their packages.
type evidence struct {
	mu sync.Mutex
	// known are the lines that have been recorded, by package; no line is written
	// twice by one process, however many instances say it.
	known map[fleet.PackageID]map[string]bool
	// settled are the packages of which it is known how a boot ends: one has served,
	// or its ending was told.
	settled map[fleet.PackageID]bool
}

// evidenceTimeout bounds the recording of one boot's evidence.
const evidenceTimeout = 10 * time.Second

// take reads the last boot of an instance to which something happened.
func (p *places) take(ctx context.Context, id fleet.InstanceID) {
	if p.kvm == nil {
		return
	}
	boot, err := p.kvm.Boot(ctx, id)
	if err != nil || boot.Spec.Kernel != fleet.KernelNanos || boot.Spec.Trace {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, evidenceTimeout)
	defer cancel()
	instance, err := p.store.Instance(ctx, id)
	if err == nil {
		err = p.record(ctx, instance.Spec.PackageID, p.evidence.of(instance.Spec.PackageID, boot))
	}
	if err != nil && fleet.KindOf(err) != fleet.KindNotFound {
		p.log.WithError(err).WithField("instance", id).Warn("what a boot told of its package was not recorded")
	}
}

// of returns what a boot tells of its package. How the program ended belongs to
// that only where the package has never served, and once: later on it is rather a tenant's
// configuration or data that ends it, of which the installation tells.
func (e *evidence) of(id fleet.PackageID, boot kvm.Boot) []string {
	lines := nanos.Evidence([]byte(boot.Log))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settled == nil {
		e.settled = map[fleet.PackageID]bool{}
	}
	switch exit := boot.Exit; {
	case boot.Served:
		e.settled[id] = true
	case e.settled[id] || exit == nil || exit.Code < 0 || (exit.Reason != fleet.ReasonProgramExited && exit.Reason != fleet.ReasonCrashLoop):
	case exit.Code == 0 && (boot.Spec.Manifest.Health.Type == fleet.HealthNone || boot.Spec.Manifest.Health.Type == ""):
		// It has done what it is for, as far as anybody can tell.
	default:
		e.settled[id] = true
		lines = nanos.Exit{Code: exit.Code, Log: []byte(boot.Log)}.Evidence()
	}
	return lines
}

// record adds lines to a package's evidence, those that are new to this process.
func (p *places) record(ctx context.Context, id fleet.PackageID, lines []string) error {
	p.evidence.mu.Lock()
	known := p.evidence.known[id]
	var fresh []string
	for _, l := range lines {
		if !known[l] {
			fresh = append(fresh, l)
		}
	}
	p.evidence.mu.Unlock()
	if err := p.store.AddEvidence(ctx, id, fresh); err != nil || len(fresh) == 0 {
		return err
	}
	p.evidence.mu.Lock()
	defer p.evidence.mu.Unlock()
	if known = p.evidence.known[id]; known == nil {
		known = map[string]bool{}
		if p.evidence.known == nil {
			p.evidence.known = map[fleet.PackageID]map[string]bool{}
		}
		p.evidence.known[id] = known
	}
	for _, l := range fresh {
		known[l] = true
	}
	return nil
}

// traceLines is how much of a trace is shown.
const traceLines = 200

// traceMemoryMiB is a traced machine's memory where nobody says.
const traceMemoryMiB = 256

// Trace implements api.Tracer.
func (p *places) Trace(ctx context.Context, pkg fleet.Package, o fleet.TraceOptions) (fleet.TraceReport, error) {
	switch {
	case pkg.Kernel != fleet.KernelNanos:
		return fleet.TraceReport{}, fleet.Errorf(fleet.KindNotAccepted, "package %s@%s is for the kernel %s, which runs every program of Linux: only kernel nanos is traced", pkg.Name, pkg.Version, pkg.Kernel)
	case p.kvm == nil:
		return fleet.TraceReport{}, fleet.Errorf(fleet.KindUnavailable, "this process has no host to boot on: ask one with --roles host")
	}
	image, err := p.images.Ensure(ctx, pkg)
	if err != nil {
		return fleet.TraceReport{}, err
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = max(traceMemoryMiB, pkg.Manifest.MinMemoryMiB)
	}
	report, err := p.kvm.Trace(ctx, fleet.InstanceSpec{
		Name: pkg.Name, Kernel: pkg.Kernel, Image: image, MemoryMiB: o.MemoryMiB, VCPUs: 1, Manifest: pkg.Manifest, Env: pkg.Manifest.Env,
	}, o.AtMost)
	if err != nil {
		return fleet.TraceReport{}, err
	}
	var log []byte
	for _, l := range report.Lines {
		log = append(append(log, l...), '\n')
	}
	lines := nanos.Evidence(log)
	if x := report.Exit; x != nil && x.Reason == fleet.ReasonProgramExited && x.Code > 0 {
		lines = nanos.Exit{Code: x.Code, Log: log}.Evidence()
		if !slices.Contains(pkg.Evidence, lines[0]) { // else a tenant's boot has told the same
			lines[0] = "traced, without volume and network: " + lines[0]
		}
	}
	out := fleet.TraceReport{Evidence: lines, Exit: report.Exit, Lines: report.Lines[max(0, len(report.Lines)-traceLines):]}
	return out, p.record(ctx, pkg.ID, out.Evidence)
}
