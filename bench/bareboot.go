package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"dormouse/internal/guest"
)

// recipe is how a machine of ours was started, taken from the running QEMU.
type recipe struct {
	exe  string
	args []string
	uid  int
	// kernel, initrd and root are files of the image; all instances share them.
	kernel, initrd, root string
	// config is the content of the configuration disk, pool its network.
	config []byte
	guest  guest.Config
	pool   string
	// volume is a fresh one, made as ours are, to be copied.
	volume string
	// ramBytes is the size of the file that is the guest's memory; 0 where QEMU has that for itself.
	ramBytes int64
	dir      string
}

// takeRecipe reads the arguments and the files of an instance's QEMU.
func (b *bench) takeRecipe(dataDir, instance string) (*recipe, error) {
	pid, args, err := findQEMU("guest=dormouse-" + instance)
	if err != nil {
		return nil, err
	}
	r := &recipe{args: args[1:], dir: filepath.Join(b.dir, "bare")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	if r.exe, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return nil, err
	}
	r.uid = int(st.Uid)
	if err := r.readFiles(pid); err != nil {
		return nil, err
	}
	if r.guest, err = guest.DecodeConfig(bytes.NewReader(r.config)); err != nil {
		return nil, err
	}
	prefix, err := netip.ParsePrefix(r.guest.Network.Address)
	if err != nil {
		return nil, fmt.Errorf("reading the guest's address: %w", err)
	}
	r.pool = prefix.Masked().String()
	return r, nil
}

// findQEMU returns the process that has that argument, and all of them.
func findQEMU(argument string) (int, []string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, nil, err
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimSuffix(string(content), "\x00"), "\x00")
		for _, a := range args {
			if a == argument {
				pid, err := strconv.Atoi(strings.Split(f, "/")[2])
				return pid, args, err
			}
		}
	}
	return 0, nil, fmt.Errorf("no process has the argument %s", argument)
}

func (r *recipe) readFiles(pid int) error {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		switch name := filepath.Base(target); {
		case name == "kernel":
			r.kernel = target
		case strings.HasPrefix(name, "initrd"):
			r.initrd = target
		case strings.HasSuffix(name, ".squashfs"):
			r.root = target
		case name == "ram":
			info, err := os.Stat(link)
			if err != nil {
				return err
			}
			r.ramBytes = info.Size()
		case strings.HasPrefix(target, "/memfd:config"):
			if r.config, err = os.ReadFile(link); err != nil {
				return err
			}
		case strings.HasSuffix(name, ".raw"):
			info, err := os.Stat(link)
			if err != nil {
				return err
			}
			if err := r.freshVolume(info.Size()); err != nil {
				return err
			}
		}
	}
	if r.kernel == "" || r.root == "" || r.config == nil || r.volume == "" {
		return errors.New("the machine's QEMU does not have the files that are expected: kernel, root, configuration and volume")
	}
	return nil
}

// freshVolume makes a volume as the provider does.
func (r *recipe) freshVolume(size int64) error {
	r.volume = filepath.Join(r.dir, "volume.fresh")
	f, err := os.Create(r.volume)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
		"-L", "dm-volume", r.volume).CombinedOutput()
	if err != nil {
		return fmt.Errorf("making a volume: %w: %s", err, out)
	}
	return nil
}
