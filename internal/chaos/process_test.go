package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one of the real processes, through all its lives.
type process struct {
	name string
	bin  string
	args []string
	log  string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// start begins a life; its output is added to that of the former ones.
func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.bin, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	// It ends with this process, and Ctrl-C is ours.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.ended = cmd, ended
	return nil
}

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.cmd.Process.Signal(s)
}

// over is closed when this life has ended.
func (p *process) over() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.over()
}

// stop ends it as an upgrade would, and says so where it does not end by itself.
func (p *process) stop() error {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.over():
		return nil
	case <-time.After(30 * time.Second):
		p.kill()
		return fmt.Errorf("%s did not end within 30 s after SIGTERM", p.name)
	}
}

// leftOver returns the command lines of living processes that name a directory.
func leftOver(dir string) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		line, err := os.ReadFile(file)
		if text := strings.ReplaceAll(string(line), "\x00", " "); err == nil && strings.Contains(text, dir) {
			found = append(found, text)
		}
	}
	return found
}
