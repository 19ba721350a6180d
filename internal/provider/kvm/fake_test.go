package kvm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/provider/kvm/hostnet"
)

// TestMain lets this binary play other programs, by the name that it is called by.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "fake-qemu":
		playQEMU(os.Args[1:])
	case "fake-provisioner":
		playProvisioner(os.Args[1])
	case "committer":
		playCommitter(os.Args[1:])
	case "fake-worker":
		playWorker(os.Args[1], os.Args[2:])
	}
	code := m.Run()
	_ = os.RemoveAll(filepath.Join(os.TempDir(), fmt.Sprintf("dormouse-kvm-test-%d", os.Getpid())))
	os.Exit(code)
}

// callAs returns a path by which this binary plays a program.
func callAs(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.Symlink(self, path))
	return path
}

// fakeQEMU is a program that takes QEMU's arguments, speaks QMP and plays a
// guest that does what its kernel command line says.
func fakeQEMU(t *testing.T) string { return callAs(t, "fake-qemu") }

func playQEMU(args []string) {
	switch {
	case slices.Equal(args, []string{"--version"}):
		fmt.Println("QEMU emulator version 7.2.0 (fake)")
		os.Exit(0)
	case slices.Equal(args, []string{"-machine", "help"}):
		fmt.Println(pinnedMachine + "           Standard PC")
		os.Exit(0)
	}
	line := strings.Join(args, " ")
	if strings.Contains(line, "guest=dormouse-probe") {
		untilKilled() // a machine on which guests hang
	}
	behaviour := between(line, "behave=", " ")
	if behaviour == "refuse" {
		fmt.Fprintln(os.Stderr, "fake-qemu: cannot set up guest memory: Cannot allocate memory")
		os.Exit(1)
	}
	f := newFakeMachine(behaviour, line)
	if strings.Contains(line, "backing=base") {
		f.playDisk(line) // does not return
	}
	f.console = inheritedFile(between(line, "-add-fd fd=", ",set=1"))
	go f.serve(inheritedFile(between(line, "id=qmp,fd=", ",")), f.qmp)
	go f.serve(inheritedFile(between(line, "id=channel,fd=", ",")), f.channel)
	if f.incoming {
		untilKilled()
	}
	fmt.Fprintln(f.console, "fake guest: runs", behaviour)
	switch behaviour {
	case "panic":
		fmt.Fprintln(f.console, "[    0.5] Kernel panic - not syncing: no init found")
		os.Exit(0)
	case "gone-unheard":
		f.goneLine(guest.Message{Event: guest.EventGone, Reason: guest.GoneExited, Code: 4})
		os.Exit(0)
	}
	untilKilled()
}

func untilKilled() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	<-c
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

func inheritedFile(number string) *os.File {
	n, err := strconv.Atoi(number)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake-qemu:", err)
		os.Exit(2)
	}
	return os.NewFile(uintptr(n), "inherited")
}

// playDisk plays a guest that boots from its disk and says nothing to its host.
// What it does is what its overlay says after "do ".
func (f *fakeMachine) playDisk(line string) {
	f.console = inheritedFile(between(line, "-add-fd fd=", ",set=1"))
	_, overlay, _ := strings.Cut(line, "set=3 -add-fd fd=")
	disk := inheritedFile(between(overlay, "", ","))
	body, err := io.ReadAll(io.LimitReader(disk, 4096)) // a volume is larger
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake-qemu:", err)
		os.Exit(2)
	}
	fmt.Fprintf(f.console, "fake disk: %s, firmware %s\n", strings.ReplaceAll(string(body), "\x00", ""), between(line, "-bios /proc/self/fd/", " "))
	if _, err := disk.WriteAt([]byte("used"), 128); err != nil {
		fmt.Fprintln(os.Stderr, "fake-qemu:", err)
		os.Exit(2)
	}
	if code, ok := strings.CutPrefix(between(string(body)+" ", "do ", " "), "exit-"); ok {
		n, _ := strconv.Atoi(code)
		os.Exit(n<<1 | 1)
	}
	f.serve(inheritedFile(between(line, "id=qmp,fd=", ",")), f.qmp)
}

func (f *fakeMachine) serve(socket *os.File, speak func(net.Conn)) {
	l, err := net.FileListener(socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake-qemu:", err)
		os.Exit(2)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		speak(conn)
		_ = conn.Close()
	}
}

// channel plays init. What it says depends on nothing but the behaviour, so that
// a host that connects again hears the last event again.
func (f *fakeMachine) channel(conn net.Conn) {
	say := func(m guest.Message) { _ = json.NewEncoder(conn).Encode(m) }
	f.awaitRunning()
	if f.incoming { // it said all that before it slept
		f.listen(conn, say)
		return
	}
	say(guest.Message{Event: guest.EventHello})
	switch {
	case f.behaviour == "boot": // says no more
	case strings.HasPrefix(f.behaviour, "exit-"):
		code, _ := strconv.Atoi(strings.TrimPrefix(f.behaviour, "exit-"))
		say(guest.Message{Event: guest.EventReady})
		fmt.Fprintln(f.console, "fake guest: the last words")
		f.end(say, guest.Message{Event: guest.EventGone, Reason: guest.GoneExited, Code: code})
	case f.behaviour == "crash-loop":
		for n := range 3 {
			say(guest.Message{Event: guest.EventStarted, Restarts: n})
			say(guest.Message{Event: guest.EventExit, Code: 1, Restarts: n})
		}
		f.end(say, guest.Message{Event: guest.EventGone, Reason: guest.GoneCrashLoop, Code: 1, Restarts: 2})
	default:
		say(guest.Message{Event: guest.EventReady, Restarts: 1})
	}
	f.listen(conn, say)
}

func (f *fakeMachine) listen(conn net.Conn, say func(guest.Message)) {
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var c guest.Command
		_ = json.Unmarshal(lines.Bytes(), &c)
		f.awaitRunning()
		if !f.obey(c, say) {
			continue
		}
		if c.Verb == guest.VerbShutdown && f.behaviour != "stubborn" {
			f.end(say, guest.Message{Event: guest.EventGone, Reason: guest.GoneStopped})
		}
	}
}

func (f *fakeMachine) end(say func(guest.Message), m guest.Message) {
	f.goneLine(m)
	say(m)
	os.Exit(0)
}

func (f *fakeMachine) goneLine(m guest.Message) {
	body, _ := json.Marshal(m)
	fmt.Fprintf(f.console, "\n%s%s\n", guest.GoneLine, body)
}

// fakeNetwork hands out addresses that nobody listens on.
type fakeNetwork struct {
	mu    sync.Mutex
	ports map[fleet.InstanceID]hostnet.Port
}

func newFakeNetwork() *fakeNetwork { return &fakeNetwork{ports: map[fleet.InstanceID]hostnet.Port{}} }

func (n *fakeNetwork) Pool() string { return "" }

func (n *fakeNetwork) Attach(_ context.Context, p hostnet.Port) (hostnet.Attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[p.ID] = p
	at := hostnet.Attachment{NetdevArgs: func(int) string { return "user,id=net0" }, Endpoints: map[int]string{}}
	for _, port := range p.Ports {
		at.Endpoints[port] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	return at, nil
}

func (n *fakeNetwork) Spare(context.Context) (hostnet.Attachment, error) {
	return hostnet.Attachment{NetdevArgs: func(int) string { return "user,id=net0" }}, nil
}

func (n *fakeNetwork) Detach(_ context.Context, id fleet.InstanceID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ports, id)
	return nil
}

func (n *fakeNetwork) List(context.Context) ([]fleet.InstanceID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []fleet.InstanceID
	for id := range n.ports {
		ids = append(ids, id)
	}
	return ids, nil
}

func (n *fakeNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (n *fakeNetwork) Close() error                 { return nil }
func (n *fakeNetwork) Remove(context.Context) error { return nil }

// fakeImages has an image for every behaviour of the fake guest, but "absent".
type fakeImages struct{ kernel string }

var behaviourName = regexp.MustCompile(`^[a-z0-9-]+$`)

func (i fakeImages) Files(_ context.Context, id fleet.ImageID) (fleet.ImageFiles, error) {
	if id == "absent" || !behaviourName.MatchString(string(id)) {
		return fleet.ImageFiles{}, fleet.Errorf(fleet.KindNotFound, "no image %s", id)
	}
	switch id {
	case "disk":
		return fleet.ImageFiles{ID: id, Kernel: fleet.KernelNanos, DiskPath: i.kernel}, nil
	case "bios", "uefi":
		return fleet.ImageFiles{ID: id, Kernel: fleet.KernelDisk, DiskPath: i.kernel, UEFI: id == "uefi"}, nil
	}
	return fleet.ImageFiles{ID: id, KernelPath: i.kernel, Cmdline: "behave=" + string(id) + " end"}, nil
}

func (i fakeImages) Specialise(_ context.Context, id fleet.ImageID, t fleet.Tenant, dir string) (fleet.TenantFiles, error) {
	files := fleet.TenantFiles{OverlayPath: filepath.Join(dir, "overlay"), ConfigPath: filepath.Join(dir, "config")}
	body := fmt.Appendf(nil, "%s at %s persists %v, do %s", t.Hostname, t.Network.Address, t.Persist, strings.Join(t.Args, " "))
	return files, errors.Join(os.WriteFile(files.OverlayPath, body, 0o600), os.WriteFile(files.ConfigPath, nil, 0o600))
}

func (i fakeImages) FormatVolume(_ context.Context, _ fleet.ImageID, _ []string, volume *os.File) error {
	head := make([]byte, 9)
	if _, err := volume.ReadAt(head, 0); err != nil {
		return err
	}
	if string(head) == "formatted" {
		_, err := volume.WriteAt([]byte("again"), 16)
		return err
	}
	_, err := volume.WriteAt([]byte("formatted"), 0)
	return err
}

// stage is a provider on fakes.
type stage struct {
	*Provider
	t       *testing.T
	o       Options
	net     *fakeNetwork
	changed chan fleet.InstanceID
}

func fakeOptions(dir, qemu string) Options {
	return Options{
		DataDir: dir, HostID: "host", HostName: "host", Images: fakeImages{kernel: "/dev/null"}, Network: newFakeNetwork(),
		Accel: AccelTCG, QEMU: qemu, SameUser: true, Resume: true, StopGrace: time.Millisecond,
	}
}

func newStage(t *testing.T) *stage { return newStageIn(t, filepath.Join(t.TempDir(), "kvm")) }

func newStageIn(t *testing.T, dir string) *stage {
	t.Helper()
	s := &stage{t: t, o: fakeOptions(dir, fakeQEMU(t)), changed: make(chan fleet.InstanceID, 1000)}
	s.net = s.o.Network.(*fakeNetwork)
	s.o.OnChange = func(id fleet.InstanceID) { s.changed <- id }
	s.open()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // at once, by force
		err := s.Shutdown(ctx)
		// A test that failed may have left machines that nobody watches.
		left, _ := qemuProcesses()
		for id, pids := range left {
			for _, pid := range pids {
				if isOurs(pid, id, filepath.Join(dir, "instances", id, "console.log")) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		require.NoError(t, err)
	})
	return s
}

func (s *stage) open() {
	s.t.Helper()
	p, err := New(s.t.Context(), s.o)
	require.NoError(s.t, err)
	s.Provider = p
}

// reopen is a restart of the provisioner.
func (s *stage) reopen() {
	s.t.Helper()
	require.NoError(s.t, s.Close())
	s.open()
}

// spec is an instance whose guest behaves so.
func (s *stage) spec(behaviour string) fleet.InstanceSpec {
	return fleet.InstanceSpec{
		ID: fleet.InstanceID(fleet.NewID()), InstallationID: fleet.InstallationID(fleet.NewID()), Name: "name", ClusterID: "cluster",
		Epoch: 5, Kernel: fleet.KernelLinux, Image: fleet.ImageID(behaviour), MemoryMiB: 64, VCPUs: 1,
		Manifest: fleet.Manifest{Program: "/bin/x", Ports: []fleet.Port{{Number: 8080, Protocol: fleet.ProtocolTCP}}, Health: fleet.Health{Type: fleet.HealthNone}},
		Env:      map[string]string{"PASSWORD": "hunter2"},
	}
}

func ref(spec fleet.InstanceSpec) fleet.InstanceRef {
	return fleet.InstanceRef{ID: spec.ID, ClusterID: spec.ClusterID, Epoch: spec.Epoch}
}

func (s *stage) ensure(spec fleet.InstanceSpec) fleet.InstanceStatus {
	s.t.Helper()
	st, err := s.Ensure(s.t.Context(), spec)
	require.NoError(s.t, err)
	return st
}

func (s *stage) observe(spec fleet.InstanceSpec) fleet.InstanceStatus {
	s.t.Helper()
	st, err := s.Observe(s.t.Context(), ref(spec))
	require.NoError(s.t, err)
	return st
}

// await waits by signals only.
func (s *stage) await(spec fleet.InstanceSpec, ok func(fleet.InstanceStatus) bool) fleet.InstanceStatus {
	s.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		st := s.observe(spec)
		if ok(st) {
			return st
		}
		select {
		case <-s.changed:
		case <-deadline:
			require.Fail(s.t, "timeout", "last seen %+v", st)
		}
	}
}

func healthy(st fleet.InstanceStatus) bool {
	return st.Power == fleet.PowerOn && st.Health == fleet.HealthHealthy
}

func isOff(st fleet.InstanceStatus) bool { return st.Power == fleet.PowerOff }

// pid of the instance's QEMU.
func (s *stage) pid(spec fleet.InstanceSpec) int {
	s.t.Helper()
	rec := s.journalled(spec)
	require.NotNil(s.t, rec.Process)
	return rec.Process.PID
}

// journalled reads the journal from disk.
func (s *stage) journalled(spec fleet.InstanceSpec) instanceRecord {
	s.t.Helper()
	body, err := os.ReadFile(s.instanceJournal.path(string(spec.ID)))
	require.NoError(s.t, err)
	rec, err := decodeInstance(string(spec.ID), body)
	require.NoError(s.t, err)
	return rec
}
