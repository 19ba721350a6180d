package main

import (
	"encoding/json"
	"os"
	"sync"
	"syscall"

	"dormouse/internal/guest"
)

// console is where init's own lines go, between those of the program.
type console struct {
	mu sync.Mutex
	fd int
}

func newConsole(fd int) *console { return &console{fd: fd} }

// line writes one line with init's prefix, in one write so that it stays whole.
func (c *console) line(text string) { c.write("dormouse-init: " + text + "\n") }

// gone writes the line that tells the host how it ended, see guest.GoneLine.
func (c *console) gone(m guest.Message) {
	body, err := json.Marshal(m)
	if err != nil {
		return // A Message always encodes.
	}
	c.write("\n" + guest.GoneLine + string(body) + "\n")
}

func (c *console) write(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for b := []byte(s); len(b) > 0; {
		n, err := syscall.Write(c.fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return // There is nobody left to tell.
		}
		b = b[n:]
	}
}

// drain waits until the console has sent everything: a power-off would cut it.
func (c *console) drain() {
	const tcsbrk = 0x5409 // TCSBRK with an argument is tcdrain(3).
	_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, uintptr(c.fd), tcsbrk, 1)
}

// devNull opens the program's standard input.
func devNull() (*os.File, error) { return os.OpenFile("/dev/null", os.O_RDONLY, 0) }
