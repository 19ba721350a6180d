package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"
)

// A client of DHCP (RFC 2131 and 2132), as far as a guest with one card needs it:
// the messages here, the conversation in lease.go. A library for it brings package
// net and more into every image: insomniacslk/dhcp adds 471 KB to init's 2.6 MB,
// this and all else for disks 49 KB.

// Kinds of message (option 53).
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6
)

// The options that are sent or read.
const (
	optMask         = 1
	optRouter       = 3
	optDNS          = 6
	optMTU          = 26
	optAddress      = 50
	optLeaseTime    = 51
	optKind         = 53
	optServer       = 54
	optParameters   = 55
	optRenewTime    = 58
	optRoutes       = 121 // classless (RFC 3442): where it is given, optRouter does not count
	optPad, optEnds = 0, 255
)

// dhcpHead is the length of the fixed part with the magic number that ends it.
const dhcpHead = 240

var dhcpMagic = [4]byte{99, 130, 83, 99}

// lease is what a server grants.
type lease struct {
	address netip.Prefix
	gateway netip.Addr // invalid where there is none
	dns     []netip.Addr
	mtu     int // 0 where the server does not say
	server  netip.Addr
	// renew is when to ask again, counted from the grant; 0 is never.
	renew time.Duration
}

// question is a message of the client's.
type question struct {
	kind byte
	xid  uint32
	mac  [6]byte
	// current is the address that the client has already (a renewal); invalid else.
	current netip.Addr
	// wanted and server are the address and the server of the offer that is taken.
	wanted, server netip.Addr
}

// encode returns the message, at least 300 bytes as some relays want it.
func (q question) encode() []byte {
	b := make([]byte, dhcpHead, 300)
	b[0], b[1], b[2] = 1, 1, 6 // a request, by Ethernet, whose addresses have 6 bytes
	binary.BigEndian.PutUint32(b[4:], q.xid)
	if q.current.Is4() {
		copy(b[12:], q.current.AsSlice())
	}
	copy(b[28:], q.mac[:])
	copy(b[236:], dhcpMagic[:])
	b = append(b, optKind, 1, q.kind)
	if q.wanted.Is4() {
		b = append(append(b, optAddress, 4), q.wanted.AsSlice()...)
	}
	if q.server.Is4() {
		b = append(append(b, optServer, 4), q.server.AsSlice()...)
	}
	parameters := []byte{optMask, optRouter, optDNS, optMTU, optLeaseTime, optRenewTime, optRoutes}
	b = append(append(b, optParameters, byte(len(parameters))), parameters...)
	b = append(b, optEnds)
	for len(b) < cap(b) {
		b = append(b, optPad)
	}
	return b
}

// decodeAnswer reads a server's answer to the question. An answer to somebody else, or
// no answer at all, is an error.
func decodeAnswer(b []byte, q question) (kind byte, l lease, err error) {
	switch {
	case len(b) < dhcpHead || [4]byte(b[236:dhcpHead]) != dhcpMagic || b[0] != 2:
		return 0, l, errors.New("it is no answer of a DHCP server")
	case binary.BigEndian.Uint32(b[4:]) != q.xid || [6]byte(b[28:34]) != q.mac:
		return 0, l, errors.New("it is for somebody else")
	}
	options, err := decodeOptions(b[dhcpHead:])
	if err != nil {
		return 0, l, err
	}
	if k := options[optKind]; len(k) == 1 {
		kind = k[0]
	}
	if kind != dhcpOffer && kind != dhcpAck {
		return kind, l, nil
	}
	l, err = decodeLease(netip.AddrFrom4([4]byte(b[16:20])), options)
	return kind, l, err
}

// decodeOptions reads code, length and value again and again. A code that comes more
// than once goes on (RFC 3396).
func decodeOptions(b []byte) (map[byte][]byte, error) {
	options := map[byte][]byte{}
	for len(b) > 0 {
		code := b[0]
		b = b[1:]
		switch {
		case code == optEnds:
			return options, nil
		case code == optPad:
			continue
		case len(b) == 0 || int(b[0]) > len(b)-1:
			return nil, errors.New("its options are cut off")
		}
		n := int(b[0])
		options[code] = append(options[code], b[1:1+n]...)
		b = b[1+n:]
	}
	return options, nil
}

func decodeLease(address netip.Addr, options map[byte][]byte) (lease, error) {
	var l lease
	if !address.IsGlobalUnicast() && !address.IsLinkLocalUnicast() {
		return l, fmt.Errorf("it grants %s, which is no address for a guest", address)
	}
	ones := 32
	if m := options[optMask]; len(m) == 4 {
		mask := binary.BigEndian.Uint32(m)
		if ones = bits.LeadingZeros32(^mask); mask != ^uint32(0)<<(32-ones) {
			return l, errors.New("its network mask has holes")
		}
	}
	l.address = netip.PrefixFrom(address, ones)
	if routers := addresses(options[optRouter]); len(routers) > 0 {
		l.gateway = routers[0]
	}
	if gateway, ok := defaultGateway(options[optRoutes]); ok {
		l.gateway = gateway
	}
	l.dns = addresses(options[optDNS])
	if m := options[optMTU]; len(m) == 2 && binary.BigEndian.Uint16(m) >= 576 { // less is no MTU of IPv4's
		l.mtu = int(binary.BigEndian.Uint16(m))
	}
	if s := addresses(options[optServer]); len(s) == 1 {
		l.server = s[0]
	}
	if t := options[optLeaseTime]; len(t) == 4 && binary.BigEndian.Uint32(t) != 1<<32-1 { // that is for ever
		l.renew = time.Duration(binary.BigEndian.Uint32(t)) * time.Second / 2
	}
	if t := options[optRenewTime]; len(t) == 4 && l.renew != 0 {
		l.renew = time.Duration(binary.BigEndian.Uint32(t)) * time.Second
	}
	return l, nil
}

// addresses reads a list of IPv4 addresses; what is no address of a machine is left out.
func addresses(b []byte) []netip.Addr {
	var all []netip.Addr
	for ; len(b) >= 4; b = b[4:] {
		if a := netip.AddrFrom4([4]byte(b)); a.IsGlobalUnicast() || a.IsLinkLocalUnicast() {
			all = append(all, a)
		}
	}
	return all
}

// defaultGateway finds the default route among classless ones: each the length of a
// prefix, as many of its bytes as that needs, and the router.
func defaultGateway(b []byte) (netip.Addr, bool) {
	for len(b) > 0 {
		n := 1 + (int(b[0])+7)/8
		if b[0] > 32 || len(b) < n+4 {
			break
		}
		if a := netip.AddrFrom4([4]byte(b[n:])); b[0] == 0 && (a.IsGlobalUnicast() || a.IsLinkLocalUnicast()) {
			return a, true
		}
		b = b[n+4:]
	}
	return netip.Addr{}, false
}
