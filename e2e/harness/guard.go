package harness

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// guardVariable makes a test binary the guard of the directory that it names.
const guardVariable = "DORMOUSE_E2E_GUARD"

// guard is a process that cleans up after a test binary that was killed.
type guard struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// startGuard runs this program again as the guard of a directory. Nothing but
// this process holds the other end of its pipe.
func startGuard(base string) (*guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), guardVariable+"="+base)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	return &guard{cmd: cmd, pipe: pipe}, nil
}

// stop tells the guard that nothing is left to do.
func (g *guard) stop() {
	if _, err := io.WriteString(g.pipe, "done"); err == nil {
		_ = g.pipe.Close()
	}
	_ = g.cmd.Wait()
}

// guardMain is the guard's life. It returns the exit code.
func guardMain(base string) int {
	// Whoever interrupts the test interrupts its whole process group, perhaps this as well.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	said, _ := io.ReadAll(os.Stdin)
	if string(said) == "done" {
		return 0
	}
	if err := sweep(base); err != nil {
		return 1
	}
	return 0
}

func isGuard(pid int) bool {
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && strings.Contains("\x00"+string(environment), "\x00"+guardVariable+"=")
}
