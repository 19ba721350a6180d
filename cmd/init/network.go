package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"dormouse/internal/guest"
)

// The guest's two interfaces; the kernel names the only network card eth0.
const (
	loopback = "lo"
	card     = "eth0"
)

// configureNetwork brings the loopback up, and eth0 with its address where the configuration has one.
func configureNetwork(c guest.Network) error {
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	lo, err := linkIndex(loopback)
	if err != nil {
		return err
	}
	if err := n.request(syscall.RTM_NEWLINK, 0, linkMessage(lo, true, nil)); err != nil {
		return fmt.Errorf("bringing %s up: %w", loopback, err)
	}
	if c.Address == "" {
		return nil
	}
	prefix, err := netip.ParsePrefix(c.Address)
	if err != nil {
		return fmt.Errorf("the configuration's network address: %w", err)
	}
	eth, err := linkIndex(card)
	if err != nil {
		return fmt.Errorf("%w: the host must attach a network card", err)
	}
	var gateway netip.Addr
	if c.Gateway != "" {
		if gateway, err = netip.ParseAddr(c.Gateway); err != nil {
			return fmt.Errorf("the configuration's gateway: %w", err)
		}
	}
	if err := bringUp(n, eth, c.MAC); err != nil {
		return err
	}
	return setAddress(n, eth, prefix, gateway)
}

// bringUp sets the card's hardware address, where one is given, and brings it up.
func bringUp(n *rtnetlink, eth uint32, mac string) error {
	if mac != "" {
		hardware, err := parseMAC(mac)
		if err != nil {
			return err
		}
		if err := n.request(syscall.RTM_NEWLINK, 0, linkMessage(eth, false, hardware)); err != nil {
			return fmt.Errorf("setting the MAC %s: %w", mac, err)
		}
	}
	if err := n.request(syscall.RTM_NEWLINK, 0, linkMessage(eth, true, nil)); err != nil {
		return fmt.Errorf("bringing %s up: %w", card, err)
	}
	return nil
}

// setAddress gives the card that is up its address and the default route, by a gateway if there is one.
func setAddress(n *rtnetlink, eth uint32, prefix netip.Prefix, gateway netip.Addr) error {
	if err := n.request(syscall.RTM_NEWADDR, syscall.NLM_F_CREATE|syscall.NLM_F_REPLACE, addressMessage(eth, prefix)); err != nil {
		return fmt.Errorf("setting the address %s: %w", prefix, err)
	}
	if !gateway.IsValid() {
		return nil
	}
	if err := n.request(syscall.RTM_NEWROUTE, syscall.NLM_F_CREATE|syscall.NLM_F_REPLACE, defaultRoute(eth, gateway, !prefix.Contains(gateway))); err != nil {
		return fmt.Errorf("routing by way of %s: %w", gateway, err)
	}
	return nil
}

func linkIndex(name string) (uint32, error) {
	text, err := os.ReadFile("/sys/class/net/" + name + "/ifindex")
	if err != nil {
		return 0, fmt.Errorf("there is no network interface %s", name)
	}
	index, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("reading the index of %s: %w", name, err)
	}
	return uint32(index), nil
}

// parseMAC reads six pairs of hex digits between colons. Package net would do,
// but brings its resolver along.
func parseMAC(s string) ([]byte, error) {
	mac, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(mac) != 6 || len(s) != 17 {
		return nil, fmt.Errorf("the configuration's MAC %q is not of the form 02:00:00:00:00:01", s)
	}
	return mac, nil
}

// linkMessage is a struct ifinfomsg that brings a link up or sets its hardware address.
func linkMessage(index uint32, up bool, mac []byte) []byte {
	b := make([]byte, 4, 64) // Family unspecified, type 0.
	b = binary.NativeEndian.AppendUint32(b, index)
	var flags uint32
	if up {
		flags = syscall.IFF_UP
	}
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, flags) // The mask: which flags are meant.
	if mac != nil {
		b = attribute(b, syscall.IFLA_ADDRESS, mac)
	}
	return b
}

// mtuMessage is a struct ifinfomsg that sets how large a packet may be.
func mtuMessage(index uint32, mtu int) []byte {
	return attribute(linkMessage(index, true, nil), syscall.IFLA_MTU, uint32Bytes(uint32(mtu)))
}

// addressMessage is a struct ifaddrmsg. Duplicate address detection is left out:
// the host's leases see to it, and it would hold IPv6 up for a second.
func addressMessage(index uint32, p netip.Prefix) []byte {
	const noDAD = 0x02 // IFA_F_NODAD
	b := []byte{family(p.Addr()), byte(p.Bits()), noDAD, syscall.RT_SCOPE_UNIVERSE}
	b = binary.NativeEndian.AppendUint32(b, index)
	raw := p.Addr().AsSlice()
	b = attribute(b, syscall.IFA_LOCAL, raw)
	return attribute(b, syscall.IFA_ADDRESS, raw)
}

// defaultRoute is a struct rtmsg. onLink is for a gateway outside the prefix.
func defaultRoute(index uint32, gateway netip.Addr, onLink bool) []byte {
	b := []byte{family(gateway), 0, 0, 0, syscall.RT_TABLE_MAIN, syscall.RTPROT_BOOT, syscall.RT_SCOPE_UNIVERSE, syscall.RTN_UNICAST}
	var flags uint32
	if onLink {
		flags = syscall.RTNH_F_ONLINK
	}
	b = append(b, uint32Bytes(flags)...)
	b = attribute(b, syscall.RTA_GATEWAY, gateway.AsSlice())
	return attribute(b, syscall.RTA_OIF, uint32Bytes(index))
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return syscall.AF_INET
	}
	return syscall.AF_INET6
}
