package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/provider/kvm/qmp"
)

const (
	// killMargin is what a guest gets on top of its program's grace to sync and power off.
	killMargin = 5 * time.Second
	// foreignGrace is how long a whole system of somebody else's has to stop its services.
	foreignGrace = 30 * time.Second
	// goneGrace is how long a guest that said it is gone may take to power off.
	goneGrace = 5 * time.Second
	// qmpPatience is how long QEMU may take to greet.
	qmpPatience = 30 * time.Second
	// notifyGap is the least time between two signals that a guest can cause.
	notifyGap = 50 * time.Millisecond
)

// vm is one run of QEMU: a handle on the process and what its guest has said.
type vm struct {
	i    *instance
	proc *watched
	// dead is closed when the process has ended, exited when that has been recorded,
	// or watching has been given up.
	dead, exited chan struct{}
	// ctx ends with the process or the provider.
	ctx    context.Context
	cancel context.CancelFunc
	guest  *channel
	// qmpUp is closed when qmp has been set, qmpDone when no more events come from QEMU.
	qmpUp, qmpDone chan struct{}
	// migration gets what QEMU says of saving and loading.
	migration chan string
	// settled is closed when an adopted machine surely runs; nil for others.
	settled chan struct{}
	// becameReady is closed when the guest is ready for the first time.
	becameReady chan struct{}
	// becameHealthy is closed when the health check has been answered for the first time.
	becameHealthy chan struct{}
	// volume is the one that the machine has for itself; nil where it has none.
	volume *fleet.VolumeRef
	// silent, health, endpoints and grace never change.
	silent    bool
	health    fleet.Health
	endpoints map[int]string
	grace     time.Duration

	mu       sync.Mutex
	qmp      *qmp.Client
	stopping bool
	killed   bool
	// again: it is started again when it has ended; discarded: its end is nobody's business.
	again, discarded bool
	// ran is when the guest's first instruction was, or was about to be.
	ran time.Time
	// how it came to run.
	how fleet.Start
	// heard: the guest has spoken in this connection.
	heard bool
	ready bool
	// round counts the times that the guest became ready or ceased to be.
	round    int
	restarts int
	gone     *guest.Message
	// shutdown is the reason of QEMU's SHUTDOWN event.
	shutdown  string
	state     fleet.HealthState
	detail    string
	probedAt  time.Time
	probing   chan struct{}
	timers    []*time.Timer
	notified  time.Time
	notifying bool
	readyOnce sync.Once
	// healthyOnce is of becameHealthy; retrying: an io-error is looked at soon.
	healthyOnce sync.Once
	retrying    bool
}

// newVM begins to watch a QEMU that runs. Needs the instance's lock. A guest that
// goes on from a sleep is not asked for what it said last: it has better to do.
func newVM(i *instance, proc *watched, purpose purpose) *vm {
	v := &vm{
		i: i, proc: proc, dead: make(chan struct{}), exited: make(chan struct{}), becameReady: make(chan struct{}), becameHealthy: make(chan struct{}),
		qmpUp: make(chan struct{}), qmpDone: make(chan struct{}), migration: make(chan string, 16),
		silent: i.rec.Spec.Kernel.Silent(), health: i.rec.Spec.Manifest.Health, endpoints: i.rec.Endpoints,
		state: fleet.HealthUnknown, detail: "the guest is booting",
	}
	v.grace = i.p.o.StopGrace
	if i.rec.Spec.Kernel == fleet.KernelDisk {
		v.grace = max(v.grace, foreignGrace)
	}
	if !i.rec.Clone {
		v.volume = i.rec.Spec.Volume
	}
	v.ctx, v.cancel = context.WithCancel(i.p.ctx)
	v.guest = newChannel(v.ctx, func(ctx context.Context) (net.Conn, error) {
		return dialSocket(ctx, i.dir(), channelSocket)
	}, v.heardFromGuest, channelOptions{Quiet: purpose == toRestore})
	if purpose == toRestore {
		v.mu.Lock()
		v.heard, v.restarts = true, i.rec.Saved.Restarts
		v.mu.Unlock()
	}
	i.active.Store(true)
	i.p.spawn(v.talk)
	i.p.spawn(v.watch)
	return v
}

// began: the guest runs from now on. One that never says so is ready at once.
func (v *vm) began(how fleet.Start) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ran, v.how = time.Now(), how
	if v.silent {
		v.becomeReady()
	}
}

// control waits for QEMU's control socket.
func (v *vm) control(ctx context.Context) (control, error) {
	select {
	case <-v.qmpUp:
		return control{Client: v.qmp, told: v.migration}, nil
	case <-v.qmpDone:
		return control{}, errQEMUEnded
	case <-ctx.Done():
		return control{}, fmt.Errorf("waiting for QEMU: %w", ctx.Err())
	}
}

// talk holds a QMP connection for the reason of the end.
func (v *vm) talk() {
	defer close(v.qmpDone)
	ctx, cancel := context.WithTimeout(v.ctx, qmpPatience)
	defer cancel()
	client, err := v.connectQMP(ctx)
	if err != nil {
		if v.ctx.Err() == nil {
			v.i.p.log.WithField("instance", v.i.id).WithError(err).Warn("QEMU does not answer on its control socket")
		}
		return
	}
	if err := v.i.settleOverlay(v.ctx, v, client); err != nil && v.ctx.Err() == nil {
		v.i.p.log.WithField("instance", v.i.id).WithError(err).Error("a machine that was going over to its volume may be paused")
	}
	v.mu.Lock()
	v.qmp = client
	close(v.qmpUp)
	if v.stopping {
		v.pressPower()
	}
	v.mu.Unlock()
	select {
	case <-client.Done():
	case <-v.ctx.Done():
		// What QEMU said before it ended is still to be read; if it has not, Close is what ends this.
		select {
		case <-client.Done():
		case <-time.After(100 * time.Millisecond):
			_ = client.Close()
		}
	}
}

// connectQMP connects and makes sure that it speaks with the right QEMU.
func (v *vm) connectQMP(ctx context.Context) (*qmp.Client, error) {
	conn, err := dialSocket(ctx, v.i.dir(), qmpSocket)
	if err != nil {
		return nil, err
	}
	client, err := qmp.New(ctx, conn, v.heardFromQEMU)
	if err != nil {
		return nil, err
	}
	var name struct {
		Name string `json:"name"`
	}
	if err := client.Execute(ctx, "query-name", nil, &name); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	if name.Name != qemuName(string(v.i.id)) {
		return nil, errors.Join(errors.New("the control socket belongs to "+name.Name), client.Close())
	}
	return client, nil
}

func (v *vm) heardFromQEMU(e qmp.Event) {
	migrationEvent(e, v.migration)
	if e.Name == "BLOCK_IO_ERROR" {
		v.retrySoon()
	}
	if e.Name != "SHUTDOWN" {
		return
	}
	var data struct {
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(e.Data, &data)
	v.mu.Lock()
	v.shutdown = data.Reason
	v.mu.Unlock()
}

// heardFromGuest takes one message of the guest channel. A guest may say
// anything at any time: it can only lie about itself.
func (v *vm) heardFromGuest(m guest.Message) {
	v.mu.Lock()
	v.heard = true
	tell := false
	switch m.Event {
	case guest.EventHello, guest.EventStarted:
		v.unready("the program has not become ready")
	case guest.EventReady:
		if !v.ready {
			v.becomeReady()
			tell = true
		}
	case guest.EventExit:
		v.unready("the program has ended")
		tell = true
	case guest.EventGone:
		v.unready("the program has ended for good")
		v.gone = &m
		v.after(goneGrace, v.kill)
	}
	v.restarts = max(v.restarts, m.Restarts)
	v.mu.Unlock()
	if tell {
		v.notifySoon()
	}
}

// becomeReady begins to probe. Needs v.mu.
func (v *vm) becomeReady() {
	v.ready = true
	v.round++
	v.readyOnce.Do(func() { close(v.becameReady) })
	v.detail = "the program has not answered yet"
	round := v.round
	v.i.p.spawn(func() { v.probeUntilHealthy(round) })
}

// unready needs v.mu.
func (v *vm) unready(detail string) {
	if v.ready {
		v.state = fleet.HealthUnhealthy
	}
	v.ready = false
	v.round++
	v.detail = detail
}

// after needs v.mu. The timer ends with the machine.
func (v *vm) after(d time.Duration, f func()) { v.timers = append(v.timers, time.AfterFunc(d, f)) }

// notifySoon signals at once, or after a moment where the guest signals without end.
func (v *vm) notifySoon() {
	v.mu.Lock()
	wait := notifyGap - time.Since(v.notified)
	if v.notifying {
		v.mu.Unlock()
		return
	}
	if wait > 0 {
		v.notifying = true
		v.after(wait, v.notifyNow)
		v.mu.Unlock()
		return
	}
	v.mu.Unlock()
	v.notifyNow()
}

func (v *vm) notifyNow() {
	v.mu.Lock()
	v.notifying = false
	v.notified = time.Now()
	v.mu.Unlock()
	v.i.p.notify(v.i.id)
}

// probeUntilHealthy asks with short pauses until the first good answer.
func (v *vm) probeUntilHealthy(round int) {
	for pause := firstProbePause; ; pause = min(pause*3/2, maxProbePause) {
		err := probe(v.ctx, v.i.p.o.Network.DialContext, v.health, v.endpoints, 0)
		if v.ctx.Err() != nil || !v.record(round, err) {
			return
		}
		if err == nil {
			v.notifySoon()
			return
		}
		select {
		case <-v.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// record takes the answer of a probe; false where the guest has moved on meanwhile.
func (v *vm) record(round int, err error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.round != round {
		return false
	}
	v.probedAt = time.Now()
	v.state, v.detail = fleet.HealthHealthy, ""
	if err == nil {
		v.healthyOnce.Do(func() { close(v.becameHealthy) })
	}
	if err != nil {
		v.state, v.detail = fleet.HealthUnhealthy, err.Error()
	} else if v.health.Type != fleet.HealthNone && v.health.Type != "" {
		v.i.served.Store(true)
	}
	return true
}

// lookAgain probes once where the last answer is old. Callers at the same time
// share one probe.
func (v *vm) lookAgain(ctx context.Context) {
	v.mu.Lock()
	if v.ctx.Err() != nil || !v.ready || v.stopping || time.Since(v.probedAt) < probeFresh {
		v.mu.Unlock()
		return
	}
	if v.probing == nil {
		v.probing = make(chan struct{})
		round, done := v.round, v.probing
		v.i.p.spawn(func() {
			err := probe(v.ctx, v.i.p.o.Network.DialContext, v.health, v.endpoints, observeTimeout)
			if v.ctx.Err() == nil {
				v.record(round, err)
			}
			v.mu.Lock()
			v.probing = nil
			v.mu.Unlock()
			close(done)
		})
	}
	done := v.probing
	v.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	case <-v.exited:
	}
}

// fill adds what is known of the running machine to a status. Needs the instance's lock.
func (v *vm) fill(st *fleet.InstanceStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st.Power, st.Restarts = fleet.PowerOn, v.restarts+v.i.restarts.Count
	st.Start = v.i.rec.Start
	if v.stopping || v.gone != nil {
		st.Power = fleet.PowerPending
		st.HealthDetail = "the machine is stopping"
		return
	}
	st.Health, st.HealthDetail = v.state, v.detail
	select {
	case <-v.readiness():
		st.Ready = true
	default:
	}
	if v.ready && v.state != fleet.HealthHealthy {
		st.Again = probeFresh
	}
}

// stop asks the guest to end and kills it after the grace. It may be called again.
func (v *vm) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stopping {
		return
	}
	v.stopping = true
	v.round++ // no probe counts any more
	v.guest.keepSending(guest.Command{Verb: guest.VerbShutdown})
	v.pressPower()
	v.after(v.grace+killMargin, v.kill)
}

// powerGap is how long a guest that has no channel may take to notice the power
// button: one that is booting does not.
const powerGap = time.Second

// pressPower presses the power button for a guest that has not spoken, and again
// until the machine ends. Needs v.mu.
func (v *vm) pressPower() {
	client := v.qmp
	if client == nil || v.heard || v.ctx.Err() != nil {
		return
	}
	v.i.p.spawn(func() { _ = client.Execute(v.ctx, "system_powerdown", nil, nil) })
	v.after(powerGap, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.pressPower()
	})
}

// discard ends a machine that is given up, of which nothing is recorded. Needs the
// instance's lock.
func (v *vm) discard() error {
	v.mu.Lock()
	v.discarded = true
	v.mu.Unlock()
	v.kill()
	select {
	case <-v.dead:
		return nil
	case <-time.After(killWait):
		v.mu.Lock()
		v.discarded = false // whenever it ends, that is recorded
		v.mu.Unlock()
		return fleet.Errorf(fleet.KindUnavailable, "waking instance %s: the process has not ended %s after it was killed", v.i.id, killWait)
	}
}

func (v *vm) isDiscarded() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.discarded
}

// kill ends QEMU at once.
func (v *vm) kill() {
	v.mu.Lock()
	v.killed = true
	v.mu.Unlock()
	if err := v.proc.signal(unix.SIGKILL); err != nil && v.ctx.Err() == nil {
		v.i.p.log.WithField("instance", v.i.id).WithError(err).Error("a machine could not be killed")
	}
}

// watch waits for the end of QEMU and records it.
func (v *vm) watch() {
	defer close(v.exited)
	err := v.proc.wait()
	v.cancel()
	<-v.guest.done
	<-v.qmpDone
	v.mu.Lock()
	for _, t := range v.timers {
		t.Stop()
	}
	v.mu.Unlock()
	if err != nil {
		return // the provider was closed; the machine runs on
	}
	status := v.proc.reap()
	_ = v.proc.close()
	close(v.dead)
	v.i.ended(v, status)
}
