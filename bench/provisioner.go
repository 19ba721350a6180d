package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"dormouse/client"
)

// provisioner is one process.
type provisioner struct {
	cmd     *exec.Cmd
	name    string
	api     string // host:port
	gateway string
	dataDir string
	logPath string
	client  *client.Client
	// end is the signal that stops it.
	end   syscall.Signal
	ended chan struct{}
	once  sync.Once
}

// start describes a process.
type start struct {
	name     string
	database string
	// dataDir is kept between processes of the same name; empty is one named after it.
	dataDir string
	roles   string
	extra   []string
	// dev runs it with --dev, and ends it as Ctrl-C does: machines and database end too.
	dev bool
}

const allRoles = "api,supervisor,gateway,host"

// startProvisioner starts a process and waits until it is ready. Guests are
// emulated and user networking is taken unless extra says otherwise, so that no
// probe disturbs what is measured.
func (b *bench) startProvisioner(ctx context.Context, s start) (*provisioner, error) {
	p := &provisioner{name: s.name, dataDir: s.dataDir, ended: make(chan struct{}), end: syscall.SIGTERM}
	if p.dataDir == "" {
		p.dataDir = filepath.Join(b.dir, "data-"+s.name)
	}
	if s.roles == "" {
		s.roles = allRoles
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	p.api, p.gateway = ports[0], ports[1]
	p.logPath = filepath.Join(b.dir, fmt.Sprintf("%s-%d.log", s.name, time.Now().UnixMilli()))
	log, err := os.Create(p.logPath)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Several processes may be on one database, each with a data directory of its own.
	from := []string{"--database", s.database, "--secret-key-file", filepath.Join(b.dir, "secret.key")}
	if s.dev {
		from, p.end = []string{"--dev"}, syscall.SIGINT
	}
	args := slices.Concat([]string{"server"}, from, []string{"--data-dir", p.dataDir, "--roles", s.roles, "--listen", p.api,
		"--gateway-listen", p.gateway, "--accel", "tcg", "--network", "user", "--init", filepath.Join(b.bin, "init")}, s.extra)
	p.cmd = exec.Command(filepath.Join(b.bin, "provisioner"), args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// Ctrl-C goes to the bench, which ends its processes in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the provisioner: %w", err)
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	b.onClose(p.stop)
	if p.client, err = client.New("http://"+p.api, client.Options{}); err != nil {
		return nil, err
	}
	return p, until(ctx, 20*time.Millisecond, time.Minute, "the provisioner is ready", func() (bool, error) {
		select {
		case <-p.ended:
			return false, fmt.Errorf("the provisioner ended: %s", lastLine(p.logPath))
		default:
		}
		if !strings.Contains(s.roles, "api") {
			content, err := os.ReadFile(p.logPath)
			return bytes.Contains(content, []byte("msg=ready")), err
		}
		answer, err := http.Get("http://" + p.api + "/readyz")
		if err != nil {
			return false, nil
		}
		return answer.StatusCode == http.StatusOK, answer.Body.Close()
	})
}

// stop ends the process as an upgrade would, and by force if it does not.
func (p *provisioner) stop() error {
	var err error
	p.once.Do(func() {
		if e := p.cmd.Process.Signal(p.end); e != nil && !errors.Is(e, os.ErrProcessDone) {
			err = e
		}
		select {
		case <-p.ended:
		case <-time.After(time.Minute):
			err = fmt.Errorf("%s (process %d) did not end within a minute and was killed: %s", p.name, p.cmd.Process.Pid, lastLine(p.logPath))
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	})
	return err
}

// kill ends the process as a power cut would.
func (p *provisioner) kill() error {
	err := p.cmd.Process.Kill()
	<-p.ended
	return err
}

// cpu returns the processor time of all threads so far, those that have ended included.
func (p *provisioner) cpu() (time.Duration, error) {
	// schedstat counts nanoseconds, but only those of threads that live; the
	// runtime ends hardly any.
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("looking for the threads of process %d: %w", p.cmd.Process.Pid, errors.Join(err, os.ErrNotExist))
	}
	var sum time.Duration
	for _, t := range threads {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // it has just ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", t, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// freePorts returns loopback addresses on which nobody listens now.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func lastLine(path string) string {
	b, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
