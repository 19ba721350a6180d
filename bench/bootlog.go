package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/provider/kvm/hostnet"
)

// bootTimes reads from the provisioner's log when it had started an instance's
// QEMU, and when the operation of that installation had succeeded.
func (p *provisioner) bootTimes(instance, name string) (started, succeeded time.Time, err error) {
	content, err := os.ReadFile(p.logPath)
	if err != nil {
		return started, succeeded, err
	}
	for line := range strings.Lines(string(content)) {
		var entry struct {
			Msg, Instance, Resource, Kind string
			Time                          time.Time
		}
		if json.Unmarshal([]byte(line), &entry) != nil {
			continue
		}
		switch {
		case entry.Msg == "machine started" && entry.Instance == instance:
			started = entry.Time
		case entry.Msg == "operation succeeded" && entry.Resource == name && entry.Kind == "create":
			succeeded = entry.Time
		}
	}
	if started.IsZero() || succeeded.IsZero() {
		err = fmt.Errorf("the log %s does not tell when %s was started and succeeded", p.logPath, name)
	}
	return started, succeeded, err
}

// endStrays ends what still uses a data directory that nobody else knows, and
// removes its network: nothing, unless its provisioner was killed.
func endStrays(dataDir string) error {
	var errs []error
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return err
	}
	ended := map[int]bool{}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, dataDir+"/") {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || ended[pid] || pid == os.Getpid() {
			continue
		}
		ended[pid] = true
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	name := hostnet.NameFor(dataDir)
	if _, err := os.Stat(filepath.Join("/run/netns", name)); err == nil {
		network, err := hostnet.NewBridge(hostnet.Options{Name: name})
		if err == nil {
			err = network.Remove(context.Background())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
