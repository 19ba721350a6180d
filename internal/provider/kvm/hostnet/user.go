package hostnet

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// Addresses of QEMU's user networking, the same in every guest: QEMU's own
// defaults for -netdev user.
const (
	userGuestAddress = "10.0.2.15/24"
	userGateway      = "10.0.2.2"
)

// User is a Network of forwarded loopback ports. It needs no rights. An
// instance keeps its ports until it is detached; a port that was given back is
// given out again as late as possible.
//
// To tell its own hypervisors from strangers it reads their command lines: a
// hypervisor's must contain the ID of its instance (in -name or a path) as well
// as the value of NetdevArgs.
type User struct {
	first, last int
	path        string
	log         logrus.FieldLogger
	dialer      net.Dialer

	mu sync.Mutex
}

var _ Network = (*User)(nil)

// NewUser opens the allocations in o.StateDir.
func NewUser(o Options) (*User, error) {
	first, last := o.FirstPort, o.LastPort
	if first == 0 && last == 0 {
		first, last = 20000, 29999
	}
	if first < 1024 || last > 65535 || first > last {
		return nil, fleet.Errorf(fleet.KindInvalid, "loopback ports %d to %d: give a range within 1024 to 65535", first, last)
	}
	if o.StateDir == "" {
		return nil, fleet.Errorf(fleet.KindInvalid, "user networking needs a directory for its state")
	}
	u := &User{first: first, last: last, path: allocationsPath(o.StateDir), log: o.logger()}
	if _, err := u.load(); err != nil {
		return nil, err
	}
	return u, nil
}

// Pool implements Network: there is none.
func (u *User) Pool() string { return "" }

// Attach implements Network. A port that somebody else listens on is replaced;
// one that the instance's own hypervisor listens on is left alone.
// KindCapacity means that no loopback port is free.
func (u *User) Attach(ctx context.Context, p Port) (Attachment, error) {
	if err := checkPort(p); err != nil {
		return Attachment{}, err
	}
	if p.Address != "" {
		return Attachment{}, fleet.InvalidField("address", "address %s: with user networking a guest has none of its own", p.Address)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Attachment{}, err
	}
	forwards, err := u.allocate(p)
	if err != nil {
		return Attachment{}, fmt.Errorf("forwarding ports for instance %s: %w", p.ID, err)
	}
	endpoints := make(map[int]string, len(forwards))
	for guest, host := range forwards {
		endpoints[guest] = loopback(host)
	}
	value := netdevValue(forwards)
	return Attachment{
		NetdevArgs:   func(int) string { return value },
		Endpoints:    endpoints,
		GuestAddress: userGuestAddress,
		Gateway:      userGateway,
	}, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// forwardValue is how one port is forwarded, as it stands on a command line.
func forwardValue(host, guest int) string {
	return fmt.Sprintf("hostfwd=tcp:%s-:%d", loopback(host), guest)
}

func netdevValue(forwards map[int]int) string {
	// restrict: the guest reaches neither the host nor the world; forwarded
	// ports work all the same.
	parts := []string{"user", "id=net0", "ipv6=off", "restrict=on"}
	for _, guest := range slices.Sorted(maps.Keys(forwards)) {
		parts = append(parts, forwardValue(forwards[guest], guest))
	}
	return strings.Join(parts, ",")
}

// allocate returns the host port of each guest port, after writing them down.
func (u *User) allocate(p Port) (map[int]int, error) {
	state, err := u.load()
	if err != nil {
		return nil, err
	}
	have := state.Instances[p.ID]
	want := make(map[int]int, len(p.Ports))
	for _, guest := range p.Ports {
		host, ok := have[guest]
		if ok && u.usable(p.ID, host, guest) {
			want[guest] = host
			continue
		}
		if ok {
			u.log.WithFields(logrus.Fields{"instance": p.ID, "port": host}).Warn("replacing a loopback port that somebody else took")
		}
		if want[guest], err = u.pick(&state, want); err != nil {
			return nil, err
		}
	}
	if have != nil && maps.Equal(have, want) {
		return want, nil
	}
	state.Instances[p.ID] = want
	return want, u.save(state)
}

// usable tells whether an allocated port is free, or in use as it should be.
func (u *User) usable(id fleet.InstanceID, host, guest int) bool {
	return portFree(host) || hypervisorRuns(id, forwardValue(host, guest))
}

// pick finds a port that nobody has, beginning after the last one given out.
func (u *User) pick(state *allocations, taken map[int]int) (int, error) {
	used := make(map[int]bool)
	for _, forwards := range state.Instances {
		for _, host := range forwards {
			used[host] = true
		}
	}
	for _, host := range taken {
		used[host] = true
	}
	size := u.last - u.first + 1
	begin := max(state.Next-u.first, 0)
	for i := range size {
		host := u.first + (begin+i)%size
		if !used[host] && portFree(host) {
			state.Next = host + 1
			return host, nil
		}
	}
	return 0, fleet.Errorf(fleet.KindCapacity, "none of the loopback ports from %d to %d is free", u.first, u.last)
}

// portFree tells whether nobody listens on a loopback port.
func portFree(port int) bool {
	listener, err := net.Listen("tcp4", loopback(port))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// Detach implements Network.
func (u *User) Detach(ctx context.Context, id fleet.InstanceID) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	state, err := u.load()
	if err == nil {
		if _, ok := state.Instances[id]; !ok {
			return nil
		}
		delete(state.Instances, id)
		err = u.save(state)
	}
	if err != nil {
		return fmt.Errorf("giving back the ports of instance %s: %w", id, err)
	}
	return nil
}

// List implements Network.
func (u *User) List(ctx context.Context) ([]fleet.InstanceID, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	state, err := u.load()
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(state.Instances)), nil
}

// DialContext implements Network, for loopback addresses.
func (u *User) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := dialTarget(network, address)
	if err != nil {
		return nil, err
	}
	if !netip.MustParsePrefix("127.0.0.0/8").Contains(target.Addr()) {
		return nil, dialError(network, target, fmt.Errorf("not a loopback address, as user networking has"))
	}
	return u.dialer.DialContext(ctx, network, address)
}

// Close implements Network: there is nothing to release.
func (u *User) Close() error { return nil }

// Remove implements Network: it forgets all allocations.
func (u *User) Remove(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return u.remove()
}
