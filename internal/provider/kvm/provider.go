package kvm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// Images gives access to images that have been built on, or brought to, this host.
type Images interface {
	// Files returns the files of an image; KindNotFound if it is not here.
	Files(ctx context.Context, id fleet.ImageID) (fleet.ImageFiles, error)
	// Specialise makes an image that is a disk one tenant's, by files in dir.
	Specialise(ctx context.Context, id fleet.ImageID, t fleet.Tenant, dir string) (fleet.TenantFiles, error)
	// FormatVolume makes the file system that the image's kernel reads on a volume
	// that has none; KindConflict where it has another kernel's.
	FormatVolume(ctx context.Context, id fleet.ImageID, persist []string, volume *os.File) error
}

// Network connects instances to the host; see package hostnet for the words.
type Network = hostnet.Network

// The defaults of Options.
const (
	DefaultQEMU         = "qemu-system-x86_64"
	DefaultStopGrace    = 10 * time.Second
	DefaultConsoleBytes = 1 << 20
	// DefaultUIDBase and DefaultUIDCount are the users that QEMU runs as where the provisioner is root.
	DefaultUIDBase  = 200_000
	DefaultUIDCount = 20_000
)

// DefaultFirmware is where distributions put OVMF: Debian and Ubuntu, SUSE, Arch.
func DefaultFirmware() []string {
	return []string{"/usr/share/ovmf/OVMF.fd", "/usr/share/OVMF/OVMF.fd", "/usr/share/qemu/OVMF.fd", "/usr/share/edk2/x64/OVMF.4m.fd"}
}

// Options are what a Provider is made from. DataDir, Images and Network are needed.
type Options struct {
	// DataDir is the provider's own directory; made if absent. One provider uses it at a time.
	DataDir string
	// HostID and HostName name this host in check reports; the host's own name where empty.
	HostID   fleet.HostID
	HostName string
	Images   Images
	// Network is not closed by the provider.
	Network Network
	// CloneNetwork is that of clones, with addresses of its own; not closed either.
	// nil is Network where that is user networking; else this host makes no clones.
	CloneNetwork Network
	// Log is discarded where nil.
	Log logrus.FieldLogger
	// Clock tells the time that is recorded; time.Now where nil.
	Clock func() time.Time
	// OnChange is called, from any goroutine and with nothing locked, when an
	// instance became ready or healthy, lost its program, or ended. It must not block.
	OnChange func(fleet.InstanceID)
	// OnWake is called like it after each wake that somebody waited for. nil is nobody.
	OnWake func(fleet.InstanceID, WakePhases)
	// PackAfter is how long a sleeper's memory lies ready before it is packed; 0 is for ever.
	PackAfter time.Duration
	// WarmBytes bounds what lies ready, and SavedBytes what is kept in all: beyond it
	// the longest asleep are packed, and then given up. 0 is no bound.
	WarmBytes, SavedBytes int64
	// Seal returns the key, of 32 bytes, with which the memory of an installation's
	// machines is encrypted whenever it is on the disk. nil leaves it there in clear,
	// readable by its machine's user.
	Seal func(fleet.InstallationID) ([]byte, error)
	// MemoryDir is where, with Seal, the memory of running machines is: a directory of
	// this user alone in a file system in memory; made if absent. The host's swap space is
	// the operator's to encrypt. A directory of its own in /dev/shm where empty.
	MemoryDir string
	// OnConsole is called like it while a machine runs and its console has grown, in ever longer
	// intervals. nil is nobody.
	OnConsole func(fleet.InstanceID)
	// Accel is AccelAuto (also where empty), AccelKVM or AccelTCG.
	Accel string
	// QEMU is the program, by path or by name; DefaultQEMU where empty.
	QEMU string
	// Firmware lists where a firmware for disks that start by UEFI only may be: one
	// file with code and variables, as OVMF.fd; DefaultFirmware where empty.
	Firmware []string
	// StopGrace is how long a program has to end after SIGTERM; the machine is
	// killed 5 s after that.
	StopGrace time.Duration
	// ConsoleBytes bounds what is kept of one console.
	ConsoleBytes int64
	// UIDBase and UIDCount are the range of user IDs for QEMU. They are used by root only.
	UIDBase, UIDCount int
	// Resume starts again what the journal wants on and does not run, as after
	// the host's reboot.
	Resume bool
	// DNS lists the guests' name servers.
	DNS []string
	// SameUser runs QEMU as the provisioner's own user even where that is root.
	SameUser bool
}

// Provider runs instances on this host. Its methods may be called concurrently.
type Provider struct {
	o    Options
	log  logrus.FieldLogger
	lock *os.File
	uids *uids
	// root: QEMU runs as users of its own.
	root bool

	instanceJournal, volumeJournal journal
	instanceDir, volumeDir         string
	accel                          *accelerator
	qemu                           *qemuProgram
	// cpu is the host's processor.
	cpu string
	// answerPatience is how long a guest that goes on may take to say so.
	answerPatience time.Duration
	// slept gets a value when a machine has fallen asleep.
	slept chan struct{}
	// tracing holds a token while a machine is traced.
	tracing chan struct{}
	// memoryAtStart is MemAvailable when the provider began, in MiB.
	memoryAtStart int64

	// ctx ends with Close; work counts the goroutines.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu        sync.Mutex
	instances map[fleet.InstanceID]*instance
	volumes   map[fleet.VolumeID]*volume
	// cloneAddresses tells which clone has which, and nextClone where to look for a free one.
	cloneAddresses map[netip.Addr]fleet.InstanceID
	nextClone      netip.Addr
	// stopping: Shutdown or Close was called; nothing is started any more.
	stopping bool
	// closed: no goroutine may begin any more.
	closed bool
}

// New opens the data directory, adopts the machines that run, removes what is
// left over from work that was cut, and (with Options.Resume) begins to start
// again what should run and does not. ctx bounds New itself.
func New(ctx context.Context, o Options) (*Provider, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	p := &Provider{
		o: o, log: o.Log, root: os.Geteuid() == 0 && !o.SameUser,
		instanceDir: filepath.Join(o.DataDir, "instances"), volumeDir: filepath.Join(o.DataDir, "volumes"),
		instances: map[fleet.InstanceID]*instance{}, volumes: map[fleet.VolumeID]*volume{}, tracing: make(chan struct{}, 1), slept: make(chan struct{}, 1),
		cloneAddresses: map[netip.Addr]fleet.InstanceID{},
		answerPatience: defaultAnswerPatience,
	}
	if p.root {
		p.uids = newUIDs(o.UIDBase, o.UIDCount)
	} else {
		p.uids = newUIDs(0, 0)
	}
	memory, err := memAvailableMiB()
	if err != nil {
		return nil, err
	}
	p.memoryAtStart = memory
	if p.cpu, err = hostCPU(); err != nil {
		return nil, err
	}
	for _, dir := range []string{o.DataDir, p.instanceDir, p.volumeDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, diskError("making the data directory", err)
		}
	}
	if o.Seal != nil {
		if err := openMemoryDir(o.MemoryDir); err != nil {
			return nil, err
		}
	}
	if p.lock, err = lockDir(ctx, o.DataDir); err != nil {
		return nil, err
	}
	// Whatever this process got from its parent (a pipe of a script, say) must not
	// live on in machines that outlive it.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("keeping inherited files from machines: %w", err), p.lock.Close())
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	uid := 0
	if p.root {
		uid = probeUID
	}
	p.accel = newAccelerator(o.Accel, o.QEMU, filepath.Join(o.DataDir, "accelerator.json"), uid, o.Log)
	p.qemu = &qemuProgram{path: o.QEMU}
	p.work.Go(func() {
		_, _ = p.qemu.get(p.ctx) // a wake finds it ready
		p.accel.warm(p.ctx)
	})
	if err := p.recover(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.work.Go(p.boundConsoles)
	p.work.Go(p.keepTiers)
	return p, nil
}

func (o *Options) complete() error {
	if o.DataDir == "" || o.Images == nil || o.Network == nil {
		return errors.New("opening the KVM provider: DataDir, Images and Network are needed")
	}
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return fmt.Errorf("opening the KVM provider: %w", err)
	}
	o.DataDir = dir
	if o.Network, err = joinNetworks(o.Network, o.CloneNetwork); err != nil {
		return fmt.Errorf("opening the KVM provider: %w", err)
	}
	switch o.Accel {
	case "":
		o.Accel = AccelAuto
	case AccelAuto, AccelKVM, AccelTCG:
	default:
		return fmt.Errorf("opening the KVM provider: there is no accelerator %q: use auto, kvm or tcg", o.Accel)
	}
	if o.HostName == "" {
		if o.HostName, err = os.Hostname(); err != nil {
			return fmt.Errorf("opening the KVM provider: %w", err)
		}
	}
	if o.HostID == "" {
		o.HostID = fleet.HostID(fleet.DeriveID("kvm-host", o.HostName))
	}
	if o.Log == nil {
		quiet := logrus.New()
		quiet.SetLevel(logrus.PanicLevel)
		o.Log = quiet
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.OnChange == nil {
		o.OnChange = func(fleet.InstanceID) {}
	}
	if o.MemoryDir == "" {
		o.MemoryDir = filepath.Join("/dev/shm", hostnet.NameFor(dir))
	}
	if o.OnWake == nil {
		o.OnWake = func(fleet.InstanceID, WakePhases) {}
	}
	if o.QEMU == "" {
		o.QEMU = DefaultQEMU
	}
	if found, err := exec.LookPath(o.QEMU); err == nil {
		o.QEMU = found
	}
	if len(o.Firmware) == 0 {
		o.Firmware = DefaultFirmware()
	}
	if o.StopGrace <= 0 {
		o.StopGrace = DefaultStopGrace
	}
	if o.ConsoleBytes <= 0 {
		o.ConsoleBytes = DefaultConsoleBytes
	}
	if o.UIDBase <= 0 {
		o.UIDBase = DefaultUIDBase
	}
	if o.UIDCount <= 0 {
		o.UIDCount = DefaultUIDCount
	}
	return nil
}

// lockPatience is how long New waits for a process that is still letting go: a
// QEMU that a killed provisioner was just about to execute has a copy of the lock
// until it does, so that it is seen by whoever gets the lock.
const lockPatience = 2 * time.Second

// lockDir keeps a second provider out of the directory for as long as the file is open.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, diskError("locking the data directory", err)
	}
	if f, err = renumber(f); err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := flock(ctx, f, lockPatience); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: another provisioner uses it: %w", dir, err), f.Close())
	}
	return f, nil
}

// lockNumber is above the numbers of what a QEMU inherits: those replace, before
// its program is executed, what has them.
const lockNumber = 64

// renumber moves a file out of the way of what children inherit.
func renumber(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, lockNumber)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// flock locks an open file, and waits so long where somebody else has.
func flock(ctx context.Context, f *os.File, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// unlockAndClose gives a lock back at once: a process that is being forked right
// now has a copy of every descriptor until it executes its program.
func unlockAndClose(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

// Close lets go of everything and leaves the machines running, for the next New to adopt.
func (p *Provider) Close() error {
	p.cancel()
	p.mu.Lock()
	p.stopping = true
	all := p.all()
	p.mu.Unlock()
	for _, i := range all {
		_ = i.lock(context.Background())
		if i.vm != nil {
			_ = i.vm.proc.close()
		}
		i.unlock()
	}
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.work.Wait()
	return unlockAndClose(p.lock)
}

// UsesImage tells whether an instance on this host, whatever its power, is made of the image.
func (p *Provider) UsesImage(id fleet.ImageID) bool {
	p.mu.Lock()
	all := p.all()
	p.mu.Unlock()
	for _, i := range all {
		_ = i.lock(context.Background())
		used := i.exists() && i.rec.Spec.Image == id
		i.unlock()
		if used {
			return true
		}
	}
	return false
}

// spawn runs f in a goroutine that Close waits for; not after Close has begun to wait.
func (p *Provider) spawn(f func()) { p.trySpawn(f) }

// trySpawn tells whether it was not too late.
func (p *Provider) trySpawn(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.work.Go(f)
	}
	return !p.closed
}

// Shutdown stops all machines cleanly, those that are still running when ctx
// ends by force, and closes the provider. The journal goes on wanting them on,
// so that the next New with Options.Resume starts them again.
func (p *Provider) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.stopping = true
	all := p.all()
	p.mu.Unlock()
	var stopped []*vm
	for _, i := range all {
		_ = i.lock(context.Background())
		if i.vm != nil {
			i.vm.stop()
			stopped = append(stopped, i.vm)
		}
		i.unlock()
	}
	for _, v := range stopped {
		select {
		case <-v.exited:
			continue
		case <-ctx.Done():
		}
		v.kill()
		select {
		case <-v.exited:
		case <-time.After(killWait):
			p.log.WithField("instance", v.i.id).Error("a killed machine has not ended")
		}
	}
	return p.Close()
}

// all needs p.mu.
func (p *Provider) all() []*instance {
	all := make([]*instance, 0, len(p.instances))
	for _, i := range p.instances {
		all = append(all, i)
	}
	return all
}

// instance returns the entry of an ID, which may be empty.
func (p *Provider) instance(id fleet.InstanceID) *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.instances[id]
	if i == nil {
		i = newInstance(p, id)
		p.instances[id] = i
	}
	return i
}

// known returns the entry of an ID, or nil.
func (p *Provider) known(id fleet.InstanceID) *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.instances[id]
}

// boundInterval is how often consoles are looked at.
const boundInterval = 2 * time.Second

// boundConsoles keeps the console logs of running machines within their bound.
func (p *Provider) boundConsoles() {
	tick := time.NewTicker(boundInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		all := p.all()
		p.mu.Unlock()
		for _, i := range all {
			if !i.active.Load() {
				continue
			}
			if err := errors.Join(i.console().bound(), i.boundStderr()); err != nil {
				p.log.WithField("instance", i.id).WithError(err).Warn("the console log could not be bounded")
			}
			if p.o.OnConsole != nil && i.console().grew(time.Now()) {
				p.o.OnConsole(i.id)
			}
		}
	}
}
