package harness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"dormouse/client"
)

// Deadlines. The machine may be busy with anything; these say when something is broken.
const (
	readyTimeout = 3 * time.Minute
	stopTimeout  = 2 * time.Minute
)

// Options say how an environment differs from the usual one.
type Options struct {
	// Credential is the user who runs the provisioner; nil is the test's own.
	Credential *syscall.Credential
	// Filesystem, where not 0, puts the data directory on a file system of its
	// own of that many bytes. It needs root.
	Filesystem int64
	// Mount, where not nil, mounts something on the data directory before anything
	// is in it, and returns what unmounts it.
	Mount func(dir string) (unmount func() error, err error)
	// Database, where not empty, is the URL of a database that the test brings, for
	// a provisioner without --dev. Such a one leaves its machines running.
	Database string
	// Args are further arguments of `provisioner server`.
	Args []string
	// Environ are further variables of its environment, NAME=VALUE.
	Environ []string
	// Umask is its umask, in octal; empty is the test's own.
	Umask string
}

// Environment is a provisioner with a directory of its own.
type Environment struct {
	// Base is the directory of everything, DataDir the provisioner's own.
	Base, DataDir string
	// URL is the API's address, GatewayAddress the gateway's host:port.
	URL, GatewayAddress string
	// Client speaks to the API, without repeating what fails.
	Client *client.Client

	tools   *tools
	options Options
	unmount func() error
	guard   *guard
	http    *http.Client
	kernel  string

	mu      sync.Mutex
	process *process
}

// process is one run of the provisioner.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func open(t *tools, o Options) (_ *Environment, err error) {
	e := &Environment{tools: t, options: o}
	if e.kernel, err = t.kernelPackages(); err != nil {
		return nil, err
	}
	if e.Base, err = openDirectory("dormouse-e2e-"); err != nil {
		return nil, err
	}
	e.DataDir = filepath.Join(e.Base, "data")
	if e.guard, err = startGuard(e.Base); err != nil {
		return nil, errors.Join(err, os.RemoveAll(e.Base))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.sweep())
		}
	}()
	if err := os.Mkdir(e.DataDir, 0o755); err != nil {
		return nil, err
	}
	if o.Filesystem > 0 {
		data := fmt.Sprintf("size=%d,mode=0755", o.Filesystem)
		if err := syscall.Mount("dormouse-e2e", e.DataDir, "tmpfs", 0, data); err != nil {
			return nil, fmt.Errorf("mounting a file system of %d bytes: %w: run the test as root", o.Filesystem, err)
		}
	}
	if o.Mount != nil {
		if e.unmount, err = o.Mount(e.DataDir); err != nil {
			return nil, err
		}
	}
	if c := o.Credential; c != nil {
		if err := os.Chown(e.DataDir, int(c.Uid), int(c.Gid)); err != nil {
			return nil, fmt.Errorf("giving the data directory to user %d: %w: run the test as root", c.Uid, err)
		}
		if err := e.copyForOthers(); err != nil {
			return nil, err
		}
	}
	var addresses [2]string
	for i := range addresses {
		if addresses[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	e.URL, e.GatewayAddress = "http://"+addresses[0], addresses[1]
	e.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	e.Client, err = client.New(e.URL, client.Options{Attempts: 1})
	return e, err
}

// copyForOthers makes what another user needs readable for them.
func (e *Environment) copyForOthers() error {
	debs, err := filepath.Glob(filepath.Join(e.kernel, "*.deb"))
	if err != nil {
		return err
	}
	e.kernel = filepath.Join(e.Base, "kernel")
	if err := os.Mkdir(e.kernel, 0o755); err != nil {
		return err
	}
	for _, deb := range debs {
		body, err := os.ReadFile(deb)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(e.kernel, filepath.Base(deb)), body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// freeAddress finds a loopback port below those that Linux takes for outgoing
// connections, and beside those that user networking forwards.
func freeAddress() (string, error) {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(10_000))
		l, err := net.Listen("tcp", address)
		if err == nil {
			return address, l.Close()
		}
	}
	return "", errors.New("finding a free loopback port: none of 100 was free")
}

// LogPath is the file with the provisioner's log.
func (e *Environment) LogPath() string { return filepath.Join(e.Base, "log") }

// LogTail returns the last lines of the provisioner's log, less its access log.
func (e *Environment) LogTail(lines int) string {
	if e == nil {
		return ""
	}
	body, err := os.ReadFile(e.LogPath())
	if err != nil {
		return err.Error()
	}
	all := slices.DeleteFunc(strings.SplitAfter(string(body), "\n"), func(line string) bool {
		return strings.Contains(line, "request answered")
	})
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}

// Namespace is the network namespace that belongs to the data directory
// (documented with --address-pool: dormouse- and ten digits of its SHA-256).
func (e *Environment) Namespace() string { return namespaceOf(e.DataDir) }

func namespaceOf(dataDir string) string {
	sum := sha256.Sum256([]byte(dataDir))
	return "dormouse-" + hex.EncodeToString(sum[:5])
}

// Start starts the provisioner and waits until it is ready.
func (e *Environment) Start(ctx context.Context) error {
	if err := e.Launch(); err != nil {
		return err
	}
	return e.AwaitReady(ctx)
}

// Migrate makes the tables in a database of the test's own.
func (e *Environment) Migrate(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, filepath.Join(e.tools.bin, "provisioner"), "migrate", "--database", e.options.Database).CombinedOutput()
	if err != nil {
		return fmt.Errorf("migrating the database: %w\n%s", err, out)
	}
	return nil
}

// Launch starts the provisioner and does not wait for it.
func (e *Environment) Launch() error {
	log, err := os.OpenFile(e.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	p := &process{cmd: e.serverCommand(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.process != nil {
		return errors.New("starting the provisioner: it runs already")
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting the provisioner: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	e.process = p
	return nil
}

func (e *Environment) serverCommand() *exec.Cmd {
	database := []string{"--dev"}
	if e.options.Database != "" {
		database = []string{"--database", e.options.Database}
	}
	args := append(append([]string{"server", "--data-dir", e.DataDir, "--listen", strings.TrimPrefix(e.URL, "http://"),
		"--gateway-listen", e.GatewayAddress, "--kernel-packages", e.kernel}, database...), e.options.Args...)
	cmd := exec.Command(filepath.Join(e.tools.bin, "provisioner"), args...)
	if e.options.Umask != "" {
		cmd = exec.Command("sh", append([]string{"-c", `umask "$0"; exec "$@"`, e.options.Umask, cmd.Path}, args...)...)
	}
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), "HOME="+e.DataDir), e.options.Environ...)
	// A session of its own: a Ctrl-C on the terminal is for the test alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: e.options.Credential}
	return cmd
}

// Second starts another provisioner on the same data directory, which must
// fail, and returns what it says.
func (e *Environment) Second() (string, error) {
	out, err := e.serverCommand().CombinedOutput()
	if err == nil {
		return "", errors.New("a second provisioner on one data directory did not fail")
	}
	return string(out), nil
}

// AwaitReady waits until the API serves and the database answers.
func (e *Environment) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	p := e.running()
	if p == nil {
		return errors.New("waiting for the provisioner: it was not started")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if e.Client.Ready(ctx) == nil {
			return nil
		}
		select {
		case <-p.done:
			e.forget(p)
			return fmt.Errorf("the provisioner ended at its start: %v\n%s", p.err, e.LogTail(20))
		case <-ctx.Done():
			return fmt.Errorf("waiting for the provisioner: %w\n%s", ctx.Err(), e.LogTail(20))
		case <-tick.C:
		}
	}
}

func (e *Environment) running() *process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.process
}

func (e *Environment) forget(p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.process == p {
		e.process = nil
	}
}

// Signal sends the provisioner a signal and goes on at once.
func (e *Environment) Signal(sig os.Signal) error {
	p := e.running()
	if p == nil {
		return errors.New("signalling the provisioner: it does not run")
	}
	return p.cmd.Process.Signal(sig)
}

// End sends the provisioner a signal and waits until it has ended. It returns
// an error if that takes too long or, but for SIGKILL, its exit code is not 0.
func (e *Environment) End(sig syscall.Signal) error {
	p := e.running()
	if p == nil {
		return errors.New("ending the provisioner: it does not run")
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		return fmt.Errorf("the provisioner has not ended %s after %s", stopTimeout, sig)
	}
	e.forget(p)
	if sig != syscall.SIGKILL && p.err != nil {
		return fmt.Errorf("the provisioner ended badly after %s: %w\n%s", sig, p.err, e.LogTail(5))
	}
	return nil
}

// Close ends the provisioner as Ctrl-C does, reports what that leaves, and
// removes everything. One with a database of the test's own leaves its machines
// running, which are ended by force.
func (e *Environment) Close() error {
	var errs []error
	if e.options.Database != "" {
		if e.running() != nil {
			errs = append(errs, e.End(syscall.SIGTERM))
		}
		return errors.Join(append(errs, e.sweep())...)
	}
	if e.running() == nil && len(owned(e.Base)) > 0 {
		// Something may have outlived it, as it should: only a new one can stop that properly.
		errs = append(errs, e.Launch())
		ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
		errs = append(errs, e.AwaitReady(ctx))
		cancel()
	}
	if e.running() != nil {
		if err := e.End(syscall.SIGINT); err != nil {
			errs = append(errs, err)
		}
	}
	if left := e.Leftovers(); len(left) > 0 {
		errs = append(errs, fmt.Errorf("after Ctrl-C there is left:\n%s", strings.Join(left, "\n")))
	}
	return errors.Join(append(errs, e.sweep())...)
}

// sweep removes everything, whatever state it is in.
func (e *Environment) sweep() error {
	err := end(e.Base)
	if e.unmount != nil {
		err = errors.Join(err, e.unmount())
	}
	err = errors.Join(err, sweep(e.Base))
	e.guard.stop()
	return err
}

// Cluster is the name of the cluster that CreateCluster makes.
const Cluster = "local"

// CreateCluster registers this machine, and fails unless its check is passed.
func (e *Environment) CreateCluster(ctx context.Context) error {
	r := e.Cloudctl(ctx, "cluster", "create", Cluster, "--provider", "kvm", "--wait")
	if r.Code != 0 {
		return fmt.Errorf("registering the cluster: %s", r)
	}
	return nil
}

// Result is what a run of cloudctl ended with.
type Result struct {
	Args           []string
	Code           int
	Stdout, Stderr string
}

func (r Result) String() string {
	return fmt.Sprintf("cloudctl %s: exit code %d\n%s%s", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
}

// Cloudctl runs cloudctl against this environment.
func (e *Environment) Cloudctl(ctx context.Context, args ...string) Result {
	cmd := e.CloudctlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := Result{Args: args, Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	if cmd.ProcessState == nil {
		r.Code, r.Stderr = -1, err.Error()
	}
	return r
}

// CloudctlCommand is a cloudctl that is yet to be started.
func (e *Environment) CloudctlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(e.tools.bin, "cloudctl"), args...)
	cmd.Env = append(os.Environ(), "DORMOUSE_SERVER="+e.URL)
	cmd.Dir = e.tools.root
	return cmd
}
