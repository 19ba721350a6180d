package hostnet

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// tapPrefix begins the name of every tap of ours.
const tapPrefix = "vm"

var tapEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// tapName returns the interface of an instance: at most 15 characters, the
// kernel's limit, and always the same. It is a hash (65 bits), because an ID is
// too long and its first half is the same for all that were made at once.
func tapName(id fleet.InstanceID) string {
	sum := sha256.Sum256([]byte(id))
	return tapPrefix + tapEncoding.EncodeToString(sum[:])[:13]
}

// tapOwner returns the instance that a tap of ours belongs to; false for any
// other interface, and for a tap that a crash left before it had its alias.
func tapOwner(link netlink.Link) (fleet.InstanceID, bool) {
	attrs := link.Attrs()
	id := fleet.InstanceID(attrs.Alias)
	if !fleet.ValidID(attrs.Alias) || tapName(id) != attrs.Name {
		return "", false
	}
	return id, true
}

func isTap(link netlink.Link) bool {
	return link.Type() == "tuntap" && strings.HasPrefix(link.Attrs().Name, tapPrefix)
}

// openTap opens the one queue of a tap as QEMU wants it, and makes the tap
// first where there is none. It returns nil where another process holds the
// queue. It must run on the namespace's thread.
func openTap(name string, uid int) (*os.File, error) {
	f, err := openQueue(name)
	if errors.Is(err, unix.EBUSY) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// It outlives the hypervisor, so that a machine that is started again finds
	// its port as it was.
	fd := int(f.Fd())
	if err := errors.Join(
		unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1),
		unix.IoctlSetInt(fd, unix.TUNSETOWNER, uid),
	); err != nil {
		return nil, errors.Join(fmt.Errorf("keeping tap %s: %w", name, err), f.Close())
	}
	return f, nil
}

// openQueue opens a tap, or makes it; EBUSY where another process holds its queue.
// A %d in the name is the lowest number that is free.
func openQueue(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening tap %s: %w", name, err), f.Close())
	}
	return f, nil
}
