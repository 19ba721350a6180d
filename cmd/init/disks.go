package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// diskWait is how long a disk may take to appear. Drivers are loaded before and
// look for their devices at once, so this is only for a very slow machine.
const diskWait = 10 * time.Second

// findDisk returns the device of the virtio-blk disk with that serial number, or
// of the partition that stands for it where the guest boots from a disk by itself.
func findDisk(serial string) (string, error) {
	if bootsByItself() {
		return findPartition(serial)
	}
	var found string
	ok := await(diskWait, func() bool {
		found = diskBySerial("/sys/block", serial)
		return found != ""
	})
	if !ok {
		return "", fmt.Errorf("there is no disk with serial number %s: the host must attach it", serial)
	}
	return "/dev/" + found, nil
}

func diskBySerial(dir, serial string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "vd") {
			continue
		}
		got, err := os.ReadFile(dir + "/" + e.Name() + "/serial")
		if err == nil && strings.TrimRight(string(got), "\n\x00 ") == serial {
			return e.Name()
		}
	}
	return ""
}

// await polls until done says so; false where it did not in time. Nothing in a
// guest tells when a device has appeared (there is no udev).
func await(limit time.Duration, done func() bool) bool {
	const step = 5 * time.Millisecond
	for deadline := time.Now().Add(limit); ; {
		if done() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(step)
	}
}
