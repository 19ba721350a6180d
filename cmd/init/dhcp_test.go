package main

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

func theQuestion() question {
	return question{kind: dhcpRequest, xid: 0xdeadbeef, mac: [6]byte{2, 0, 0, 0, 0, 1}}
}

// answerTo is what a server says: options as code and value.
func answerTo(q question, address string, options ...[]byte) []byte {
	b := make([]byte, dhcpHead)
	b[0], b[1], b[2] = 2, 1, 6
	binary.BigEndian.PutUint32(b[4:], q.xid)
	copy(b[16:], netip.MustParseAddr(address).AsSlice())
	copy(b[28:], q.mac[:])
	copy(b[236:], dhcpMagic[:])
	for _, o := range options {
		b = append(append(b, o[0], byte(len(o)-1)), o[1:]...)
	}
	return append(b, optEnds)
}

func TestDecodeAnswer(t *testing.T) {
	t.Parallel()
	kind, l, err := decodeAnswer(answerTo(theQuestion(), "10.0.2.15", []byte{optKind, dhcpAck}, []byte{optMask, 255, 255, 255, 0},
		[]byte{optRouter, 10, 0, 2, 2, 10, 0, 2, 9}, []byte{optDNS, 10, 0, 2, 3}, []byte{optDNS, 0, 0, 0, 0, 10, 0, 2, 4},
		[]byte{optLeaseTime, 0, 0, 0x0e, 0x10}, []byte{optServer, 10, 0, 2, 1}, []byte{optMTU, 5, 0xb4}), theQuestion())
	require.NoError(t, err)
	require.Equal(t, byte(dhcpAck), kind)
	require.Equal(t, lease{
		address: netip.MustParsePrefix("10.0.2.15/24"), gateway: netip.MustParseAddr("10.0.2.2"), mtu: 1460,
		dns: []netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("10.0.2.4")}, server: netip.MustParseAddr("10.0.2.1"), renew: 30 * time.Minute,
	}, l)
	require.Equal(t, guest.Network{DHCP: true, Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3", "10.0.2.4"}}, l.network(guest.Network{DHCP: true}))
	require.Equal(t, []string{"9.9.9.9"}, l.network(guest.Network{DNS: []string{"9.9.9.9"}}).DNS, "the configuration's own name servers win")
	require.Equal(t, guest.Network{DHCP: true}, lease{}.network(guest.Network{DHCP: true}))

	// As Compute Engine answers: an address by itself, the gateway outside of it, by classless routes.
	_, l, err = decodeAnswer(answerTo(theQuestion(), "10.128.0.7", []byte{optKind, dhcpOffer}, []byte{optMask, 255, 255, 255, 255}, []byte{optRouter, 1, 1, 1, 1},
		[]byte{optRoutes, 32, 10, 128, 0, 1, 0, 0, 0, 0, 0, 10, 128, 0, 1}, []byte{optLeaseTime, 0xff, 0xff, 0xff, 0xff}, []byte{optRenewTime, 0, 0, 0, 9}), theQuestion())
	require.NoError(t, err)
	require.Equal(t, lease{address: netip.MustParsePrefix("10.128.0.7/32"), gateway: netip.MustParseAddr("10.128.0.1")}, l)

	kind, _, err = decodeAnswer(answerTo(theQuestion(), "0.0.0.0", []byte{optKind, dhcpNak}), theQuestion())
	require.NoError(t, err)
	require.Equal(t, byte(dhcpNak), kind)
}

func TestDecodeAnswerRefuses(t *testing.T) {
	t.Parallel()
	good := answerTo(theQuestion(), "10.0.2.15", []byte{optKind, dhcpAck}, []byte{optMask, 255, 255, 255, 0})
	_, _, err := decodeAnswer(good, theQuestion())
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"Empty":      nil,
		"Short":      good[:239],
		"Request":    append([]byte{1}, good[1:]...),
		"NoMagic":    append(append([]byte{}, good[:236]...), make([]byte, 60)...),
		"CutOption":  good[:244],
		"CutLength":  append(append([]byte{}, good[:240]...), optMask),
		"MaskHoles":  answerTo(theQuestion(), "10.0.2.15", []byte{optKind, dhcpAck}, []byte{optMask, 255, 0, 255, 0}),
		"Loopback":   answerTo(theQuestion(), "127.0.0.1", []byte{optKind, dhcpAck}),
		"Multicast":  answerTo(theQuestion(), "224.0.0.1", []byte{optKind, dhcpAck}),
		"Broadcast":  answerTo(theQuestion(), "255.255.255.255", []byte{optKind, dhcpAck}),
		"AnotherXID": answerTo(question{xid: 1, mac: theQuestion().mac}, "10.0.2.15", []byte{optKind, dhcpAck}),
		"AnotherMAC": answerTo(question{xid: 0xdeadbeef}, "10.0.2.15", []byte{optKind, dhcpAck}),
	} {
		_, _, err := decodeAnswer(b, theQuestion())
		require.Error(t, err, name)
	}
}

func TestEncodeQuestion(t *testing.T) {
	t.Parallel()
	q := theQuestion()
	q.wanted, q.server = netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("10.0.2.2")
	b := q.encode()
	require.Len(t, b, 300)
	options, err := decodeOptions(b[dhcpHead:])
	require.NoError(t, err)
	require.Equal(t, []byte{dhcpRequest}, options[optKind])
	require.Equal(t, []byte{10, 0, 2, 15}, options[optAddress])
	require.Equal(t, []byte{10, 0, 2, 2}, options[optServer])
	require.Equal(t, make([]byte, 4), b[12:16])
	// A renewal names the address that it has, and neither offer nor server.
	q = theQuestion()
	q.current = netip.MustParseAddr("10.0.2.15")
	b = q.encode()
	require.Equal(t, []byte{10, 0, 2, 15}, b[12:16])
	options, err = decodeOptions(b[dhcpHead:])
	require.NoError(t, err)
	require.NotContains(t, options, byte(optAddress))
	require.NotContains(t, options, byte(optServer))
}

func TestPackets(t *testing.T) {
	t.Parallel()
	sent := udpBroadcast(netip.Addr{}, []byte("hello"))
	require.Zero(t, checksum(sent[:20]), "the header with its checksum sums up to nothing")
	require.Nil(t, udpPayload(sent), "it goes to a server's port")
	binary.BigEndian.PutUint16(sent[22:], clientPort)
	require.Equal(t, []byte("hello"), udpPayload(sent))
	require.Equal(t, []byte("hello"), udpPayload(append(sent, 0, 0, 0)), "Ethernet pads short packets")
	for i := range len(sent) {
		require.Nil(t, udpPayload(sent[:i]))
	}
	for at, b := range map[int]byte{0: 0x65, 9: 6, 6: 0x20, 2: 0xff, 24: 0xff} {
		broken := append([]byte{}, sent...)
		broken[at] = b
		require.Nil(t, udpPayload(broken), "byte %d", at)
	}
	broken := append([]byte{}, sent...)
	broken[0] = 0x44
	require.Nil(t, udpPayload(broken))
}

// Whatever comes from the network, nothing panics.
func FuzzDecodeAnswer(f *testing.F) {
	f.Add(answerTo(theQuestion(), "10.0.2.15", []byte{optKind, dhcpAck}, []byte{optRoutes, 0, 10, 0, 0, 1}, []byte{optDNS, 1, 2, 3}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		udpPayload(b)
		if _, l, err := decodeAnswer(b, theQuestion()); err == nil && l.address.IsValid() {
			require.True(t, l.address.Addr().Is4())
		}
	})
}
