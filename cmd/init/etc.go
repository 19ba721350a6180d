package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"dormouse/internal/guest"
)

// maxEtc bounds what of an image's /etc is copied into memory, in bytes: real ones
// have one or two MiB.
const maxEtc = 8 << 20

// nameFiles returns the files that tell a program its name, its address and its
// name servers, by their names in /etc.
func nameFiles(c guest.Config) map[string]string {
	var hosts, resolv strings.Builder
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if prefix, err := netip.ParsePrefix(c.Network.Address); err == nil && c.Hostname != "" {
		fmt.Fprintf(&hosts, "%s\t%s\n", prefix.Addr(), c.Hostname)
	} else if c.Hostname != "" {
		fmt.Fprintf(&hosts, "127.0.1.1\t%s\n", c.Hostname)
	}
	for _, server := range c.Network.DNS {
		fmt.Fprintf(&resolv, "nameserver %s\n", server)
	}
	return map[string]string{"hostname": c.Hostname + "\n", "hosts": hosts.String(), "resolv.conf": resolv.String()}
}

// writeNames puts those files into /etc. Nothing else depends on them, so an
// image that has no /etc is told about, not refused.
func writeNames(c guest.Config, scratch *os.File, con *console) error {
	if !isDir("/etc") {
		con.line("the image has no directory /etc: hosts, hostname and resolv.conf are not set")
		return nil
	}
	files := nameFiles(c)
	plain := true
	for name := range files {
		plain = plain && isPlaceholder("/etc/"+name)
	}
	if !plain {
		if err := replaceEtc(scratch); err != nil {
			con.line("hosts, hostname and resolv.conf are not set: " + err.Error())
			return nil
		}
	}
	for name, content := range files {
		target := "/etc/" + name
		if !plain {
			if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("writing %s: %w", target, err)
			}
			if err := os.WriteFile(target, []byte(content), 0o644); err != nil {
				return fmt.Errorf("writing %s: %w", target, err)
			}
			continue
		}
		source := fdPath(scratch, "etc-"+name)
		if err := os.WriteFile(source, []byte(content), 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", target, err)
		}
		if err := syscall.Mount(source, target, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", target, err)
		}
	}
	return nil
}

// isPlaceholder tells whether a file can be mounted over there; where /etc itself
// is persistent, and so writable, it is made.
func isPlaceholder(file string) bool {
	info, err := os.Lstat(file)
	if os.IsNotExist(err) {
		return os.WriteFile(file, nil, 0o644) == nil
	}
	return err == nil && info.Mode().IsRegular()
}

// replaceEtc puts a writable copy over the image's /etc.
func replaceEtc(scratch *os.File) error {
	var size int64
	err := filepath.WalkDir("/etc", func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if size > maxEtc {
		return errors.New("the image lacks one of them, and its /etc is too large to be copied into memory")
	}
	source, err := copyDirOnto("/etc", fdPath(scratch, "etc"))
	if err != nil {
		return err
	}
	return syscall.Mount(source, "/etc", "", syscall.MS_BIND, "")
}
