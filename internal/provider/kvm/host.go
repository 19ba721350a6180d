package kvm

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// qemuProgram knows the version of the QEMU that is installed now.
type qemuProgram struct {
	path string

	mu           sync.Mutex
	key, version string
}

// get asks the program only where its file is another than at the last time.
func (q *qemuProgram) get(ctx context.Context) (string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := ""
	if info, err := os.Stat(q.path); err == nil {
		key = fmt.Sprint(info.Size(), info.ModTime().UnixNano())
	}
	if key != "" && key == q.key {
		return q.version, nil
	}
	version, err := qemuVersion(ctx, q.path)
	if err == nil {
		q.key, q.version = key, version
	}
	return version, err
}

// hostCPU names the host's processor and what it can do: a guest may have seen
// and use all of it.
func hostCPU() (string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("looking at the host's processor: %w", err)
	}
	defer f.Close()
	var model, flags string
	lines := bufio.NewScanner(f)
	for lines.Scan() && lines.Text() != "" { // one processor is as good as another
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch key, value = strings.TrimSpace(key), strings.TrimSpace(value); key {
		case "model name", "CPU part":
			model = value
		case "flags", "Features":
			flags = value
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("looking at the host's processor: %w", err)
	}
	sum := sha256.Sum256([]byte(flags))
	return fmt.Sprintf("%s %s, features %s", runtime.GOARCH, model, hex.EncodeToString(sum[:6])), nil
}

// onDisk is the room that a file takes, in bytes.
func onDisk(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512 // stat(2): of 512 bytes, whatever the file system's are
	}
	return info.Size()
}
