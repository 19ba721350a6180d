package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/guest"
)

const (
	// cardWait is how long the card may take to appear: some drivers look for theirs in the background.
	cardWait = 10 * time.Second
	// leaseWait is how long the program is held up for an address. After that it
	// starts without one, and gets it when a server answers.
	leaseWait = 60 * time.Second
	// firstPatience is how long the first message waits for an answer; each further one twice as long, up to maxPatience.
	firstPatience = time.Second / 2
	maxPatience   = 16 * time.Second
	// minRenew bounds how often a server can have a lease renewed.
	minRenew = 30 * time.Second
)

// leaseNetwork gets the card an address and keeps it. It returns what the lease
// says, in the form of the configuration; c where there is none yet.
func leaseNetwork(c guest.Network, con *console) guest.Network {
	d, err := openDHCP(c.MAC)
	if err != nil {
		con.line("there is no network: " + err.Error())
		return c
	}
	l, err := d.acquire(lease{}, time.Now().Add(leaseWait))
	if err == nil {
		err = d.apply(l)
	}
	if err != nil {
		con.line("there is no address yet: " + err.Error())
	}
	go d.keep(l, c, con)
	return l.network(c)
}

// network is the lease in the form of the configuration, whose own name servers win.
func (l lease) network(c guest.Network) guest.Network {
	if !l.address.IsValid() {
		return c
	}
	c.Address = l.address.String()
	if l.gateway.IsValid() {
		c.Gateway = l.gateway.String()
	}
	if len(c.DNS) == 0 {
		for _, a := range l.dns {
			c.DNS = append(c.DNS, a.String())
		}
	}
	return c
}

// dhcpClient speaks by a packet socket: a card that has no address yet can't
// take part in anything else.
type dhcpClient struct {
	fd    int
	index uint32
	mac   [6]byte
	xid   uint32
}

func openDHCP(mac string) (*dhcpClient, error) {
	d := &dhcpClient{}
	var err error
	if !await(cardWait, func() bool { d.index, err = linkIndex(card); return err == nil }) {
		return nil, fmt.Errorf("%w: attach a network card that this kernel has a driver for", err)
	}
	n, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer n.close()
	if err := bringUp(n, d.index, mac); err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/sys/class/net/" + card + "/address")
	if err != nil {
		return nil, fmt.Errorf("reading the card's own address: %w", err)
	}
	own, err := parseMAC(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("reading the card's own address: %w", err)
	}
	copy(d.mac[:], own)
	d.xid = binary.BigEndian.Uint32(d.mac[2:]) ^ uint32(time.Now().UnixNano())
	d.fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, int(networkOrder(syscall.ETH_P_IP)))
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	if err := syscall.Bind(d.fd, &syscall.SockaddrLinklayer{Protocol: networkOrder(syscall.ETH_P_IP), Ifindex: int(d.index)}); err != nil {
		_ = syscall.Close(d.fd)
		return nil, fmt.Errorf("listening on %s: %w", card, err)
	}
	return d, nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// keep renews the lease for as long as the guest lives. An address whose lease
// could not be renewed stays: without it the guest would serve nobody for sure.
func (d *dhcpClient) keep(l lease, c guest.Network, con *console) {
	for {
		switch {
		case !l.address.IsValid(): // there is none yet: go on asking
		case l.renew == 0:
			return
		default:
			time.Sleep(max(l.renew, minRenew))
		}
		next, err := d.acquire(l, time.Now().Add(max(l.renew, leaseWait)))
		if err == nil {
			err = d.apply(next)
		}
		switch {
		case errors.Is(err, errRefused):
			l.address = netip.Prefix{} // start over, and meanwhile keep what there is
		case err != nil:
			con.line("the network address is not renewed: " + err.Error())
		default:
			if next.address != l.address {
				con.line("the network address is " + next.address.String())
				// Over the file that was mounted there; one that is the image's own stays.
				_ = os.WriteFile("/etc/resolv.conf", []byte(nameFiles(guest.Config{Network: next.network(c)})["resolv.conf"]), 0o644)
			}
			l = next
		}
	}
}

// apply gives the card what the lease says.
func (d *dhcpClient) apply(l lease) error {
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	if l.mtu != 0 {
		if err := n.request(syscall.RTM_NEWLINK, 0, mtuMessage(d.index, l.mtu)); err != nil {
			return fmt.Errorf("setting the MTU %d: %w", l.mtu, err)
		}
	}
	return setAddress(n, d.index, l.address, l.gateway)
}

var errRefused = errors.New("the DHCP server refuses the address")

// acquire gets a lease, or the one before renewed.
func (d *dhcpClient) acquire(before lease, until time.Time) (lease, error) {
	for {
		l, err := d.try(before, until)
		if err == nil || !errors.Is(err, errRefused) || before.address.IsValid() || time.Now().After(until) {
			return l, err
		}
		time.Sleep(maxPatience / 8) // The offer was taken by somebody else meanwhile.
	}
}

// try is one conversation: discover, offer, request, acknowledgement; for a renewal the last two only.
func (d *dhcpClient) try(before lease, until time.Time) (lease, error) {
	d.xid++
	q := question{kind: dhcpRequest, xid: d.xid, mac: d.mac}
	if before.address.IsValid() {
		q.current = before.address.Addr()
	} else {
		q.kind = dhcpDiscover
		_, offer, err := d.ask(q, until, dhcpOffer)
		if err != nil {
			return lease{}, err
		}
		q.kind, q.wanted, q.server = dhcpRequest, offer.address.Addr(), offer.server
	}
	kind, l, err := d.ask(q, until, dhcpAck, dhcpNak)
	switch {
	case err != nil:
		return lease{}, err
	case kind == dhcpNak:
		return lease{}, errRefused
	}
	return l, nil
}

// ask sends the question until an answer of one of those kinds comes.
func (d *dhcpClient) ask(q question, until time.Time, kinds ...byte) (byte, lease, error) {
	packet := udpBroadcast(q.current, q.encode())
	to := &syscall.SockaddrLinklayer{
		Protocol: networkOrder(syscall.ETH_P_IP), Ifindex: int(d.index), Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255},
	}
	buf := make([]byte, 2048)
	for patience := firstPatience; ; patience = min(2*patience, maxPatience) {
		// A card whose cable is not in yet refuses: that passes.
		_ = syscall.Sendto(d.fd, packet, 0, to)
		for deadline := time.Now().Add(patience); ; {
			n, ok, err := d.receive(buf, deadline)
			if err != nil {
				return 0, lease{}, err
			}
			if !ok {
				break
			}
			kind, l, err := decodeAnswer(udpPayload(buf[:n]), q)
			for _, k := range kinds {
				if err == nil && kind == k {
					return kind, l, nil
				}
			}
		}
		if time.Now().After(until) {
			return 0, lease{}, errors.New("no DHCP server answers")
		}
	}
}

// receive waits for a packet; false where none came in time.
func (d *dhcpClient) receive(buf []byte, deadline time.Time) (int, bool, error) {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return 0, false, nil
		}
		limit := syscall.NsecToTimeval(int64(max(left, time.Millisecond)))
		if err := syscall.SetsockoptTimeval(d.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit); err != nil {
			return 0, false, fmt.Errorf("waiting for a DHCP server: %w", err)
		}
		n, _, err := syscall.Recvfrom(d.fd, buf, 0)
		switch {
		case err == nil:
			return n, true, nil
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENETDOWN):
		default:
			return 0, false, fmt.Errorf("waiting for a DHCP server: %w", err)
		}
	}
}
