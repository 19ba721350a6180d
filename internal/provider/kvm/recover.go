package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

// resumePatience is how long the start of one machine may hold up the next.
const resumePatience = 20 * time.Second

// recover reads the journals, adopts what runs, records what has ended
// meanwhile, goes on with deletions, and removes what nobody knows.
func (p *Provider) recover(ctx context.Context) error {
	if err := p.loadVolumes(); err != nil {
		return err
	}
	if err := p.loadInstances(); err != nil {
		return err
	}
	running, err := qemuProcesses()
	if err != nil {
		return err
	}
	var resume []*instance
	p.mu.Lock()
	all := p.all()
	p.mu.Unlock()
	for _, i := range all {
		if !i.exists() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("opening the KVM provider: %w", err)
		}
		if err := i.endVerifiers(ctx, running[string(i.id)+verifySuffix]); err != nil {
			return err
		}
		if err := i.recover(ctx, running[string(i.id)]); err != nil {
			return err
		}
		if i.resuming {
			resume = append(resume, i)
		}
	}
	if err := p.forgetOverlays(); err != nil {
		return err
	}
	if err := p.sweepNetwork(ctx); err != nil {
		return err
	}
	if err := errors.Join(p.sweepDirectories(), p.sweepMemoryDir()); err != nil {
		return err
	}
	p.spawn(func() { p.resume(resume) })
	return nil
}

func (p *Provider) loadInstances() (err error) {
	if p.instanceJournal, err = openJournal(filepath.Join(p.o.DataDir, "journal", "instances")); err != nil {
		return err
	}
	return p.instanceJournal.each(func(id string, body []byte) error {
		rec, err := decodeInstance(id, body)
		if err != nil {
			return err
		}
		if p.expired(rec.DeletedAt) {
			return p.instanceJournal.remove(id)
		}
		i := p.instance(rec.ID)
		i.rec = rec
		i.noteClone()
		p.keepCloneAddress(rec)
		if rec.DeletedAt.IsZero() && !p.uids.keep(rec.UID, id) {
			// The range was changed, or this is no root any more: a machine that runs keeps what it has.
			if i.rec.UID, err = p.uids.take(id); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *Provider) loadVolumes() (err error) {
	if p.volumeJournal, err = openJournal(filepath.Join(p.o.DataDir, "journal", "volumes")); err != nil {
		return err
	}
	return p.volumeJournal.each(func(id string, body []byte) error {
		rec, err := decodeVolume(id, body)
		if err != nil {
			return err
		}
		if p.expired(rec.DeletedAt) {
			return p.volumeJournal.remove(id)
		}
		p.volume(rec.ID).rec = rec
		return nil
	})
}

func (p *Provider) expired(deletedAt time.Time) bool {
	return !deletedAt.IsZero() && p.o.Clock().Sub(deletedAt) > tombstoneAge
}

// recover finds out what has become of one instance.
func (i *instance) recover(ctx context.Context, candidates []int) error {
	_ = i.lock(context.Background())
	defer i.unlock()
	proc, found := i.findProcess(candidates)
	if i.rec.Deleting || i.rec.Spec.Trace { // nobody waits for a trace any more
		if found {
			if err := killAndWait(ctx, proc); err != nil {
				return err
			}
		}
		return i.finishDelete(ctx)
	}
	if i.rec.Asleep {
		return i.recoverSleeper(ctx, proc, found)
	}
	// What a sleep that was cut has left is no use to anybody.
	if err := i.useUp(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing leftovers: %w", err)
	}
	if found {
		return i.adopt(proc, guest.Command{Verb: guest.VerbThaw})
	}
	if i.rec.Process != nil || i.rec.Starting {
		i.record(&ending{asked: i.rec.Want == fleet.PowerOff})
	}
	if i.rec.Want == fleet.PowerOn && i.p.o.Resume && i.rec.Clone == original { // whoever wanted the clone has not got what it is for
		i.resuming = true
		i.reserveVolume()
	}
	return nil
}

// findProcess finds the instance's QEMU: the one in the journal if it still is
// that process, or one that was started just before the journal could be written.
func (i *instance) findProcess(candidates []int) (process, bool) {
	console := i.console().live
	if p := i.rec.Process; p != nil && p.lives() && isOurs(p.PID, string(i.id), console) {
		return *p, true
	}
	for _, pid := range candidates {
		if !isOurs(pid, string(i.id), console) {
			continue
		}
		if p, err := identify(pid); err == nil {
			p.StartedAt = i.p.o.Clock().UTC()
			return p, true
		}
	}
	return process{}, false
}

// adopt watches a machine that runs. One that was asked to stop goes on stopping.
// command is what its guest is told, which may have been frozen.
func (i *instance) adopt(proc process, command guest.Command) error {
	w, err := watch(proc)
	if errors.Is(err, unix.ESRCH) {
		i.record(&ending{asked: i.rec.Want == fleet.PowerOff}) // it ended this moment
		return nil
	}
	if err != nil {
		return err
	}
	if i.rec.Process == nil || i.rec.Process.PID != proc.PID {
		i.rec.Process, i.rec.Starting = &proc, false
		if err := i.save(); err != nil {
			return errors.Join(err, w.close())
		}
	}
	i.reserveVolume()
	// What it has in use was available before it was started.
	if used, err := kibField(fmt.Sprintf("/proc/%d/status", proc.PID), "VmRSS:"); err == nil {
		i.p.memoryAtStart += used
	}
	i.vm = newVM(i, w, toBoot)
	i.vm.began(i.rec.Start)
	v := i.vm
	v.settled = make(chan struct{})
	i.p.spawn(func() {
		defer close(v.settled)
		v.settle(command)
	})
	if i.rec.Want == fleet.PowerOff {
		i.vm.stop()
	}
	i.p.log.WithField("instance", i.id).WithField("pid", proc.PID).Info("machine adopted")
	return nil
}

func killAndWait(ctx context.Context, proc process) error {
	w, err := watch(proc)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("killing process %d: %w", proc.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = w.close() })
	defer stop()
	if err := w.wait(); err != nil {
		return fmt.Errorf("waiting for the end of process %d: %w", proc.PID, err)
	}
	w.reap()
	return nil
}

// sweepNetwork removes the ports of instances that do not run.
func (p *Provider) sweepNetwork(ctx context.Context) error {
	ids, err := p.o.Network.List(ctx)
	if err != nil {
		return fmt.Errorf("looking at the host's network: %w", err)
	}
	for _, id := range ids {
		if i := p.known(id); i != nil && i.runs() {
			continue
		}
		if err := p.o.Network.Detach(ctx, id); err != nil {
			return fmt.Errorf("removing the port of %s, which does not run: %w", id, err)
		}
	}
	return nil
}

// runs tells whether a machine of this instance runs.
func (i *instance) runs() bool {
	_ = i.lock(context.Background())
	defer i.unlock()
	return i.vm != nil
}

// sweepDirectories removes files that no journal names, and what cut work left.
func (p *Provider) sweepDirectories() error {
	entries, err := os.ReadDir(p.instanceDir)
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, entry := range entries {
		i := p.known(fleet.InstanceID(entry.Name()))
		if i == nil || !i.exists() {
			if err := os.RemoveAll(filepath.Join(p.instanceDir, entry.Name())); err != nil {
				return fmt.Errorf("removing leftovers: %w", err)
			}
			continue
		}
		if !i.runs() {
			for _, name := range sockets() {
				_ = os.Remove(filepath.Join(i.dir(), name))
			}
		}
		_ = os.Remove(i.console().old + tempSuffix)
		_ = os.Remove(i.packedPath() + tempSuffix)
	}
	if entries, err = os.ReadDir(p.volumeDir); err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, entry := range entries {
		id, isOverlay := strings.CutSuffix(entry.Name(), overlaySuffix)
		id, _ = strings.CutSuffix(id, ".raw")
		p.mu.Lock()
		v := p.volumes[fleet.VolumeID(id)]
		p.mu.Unlock()
		if v == nil || !v.exists() || isOverlay && v.rec.Overlay == overlayNone {
			if err := os.Remove(filepath.Join(p.volumeDir, entry.Name())); err != nil {
				return fmt.Errorf("removing leftovers: %w", err)
			}
		}
	}
	return nil
}

// resume starts what the journal wants on, a few at a time: a boot needs a processor.
func (p *Provider) resume(all []*instance) {
	slots := make(chan struct{}, max(2, runtime.NumCPU()))
	for _, i := range all {
		select {
		case slots <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		p.spawn(func() {
			defer func() { <-slots }()
			i.resume()
		})
	}
}

// resume starts one machine and waits until it is ready, has ended, or takes too long.
func (i *instance) resume() {
	p := i.p
	if i.lock(p.ctx) != nil {
		return
	}
	if !i.resuming || !i.exists() || i.rec.Deleting || i.vm != nil {
		i.unlock()
		return
	}
	if err := i.start(p.ctx); err != nil && p.ctx.Err() == nil {
		i.startFailed(err)
	}
	v := i.vm
	i.unlock()
	p.notify(i.id)
	if v == nil {
		return
	}
	select {
	case <-v.becameReady:
	case <-v.exited:
	case <-time.After(resumePatience):
	case <-p.ctx.Done():
	}
}
