package main

import (
	"encoding/binary"
	"net/netip"
	"syscall"
)

// Ports of DHCP.
const (
	serverPort = 67
	clientPort = 68
)

// udpBroadcast puts headers of IPv4 (RFC 791) and UDP (RFC 768, without its
// checksum, as that allows) before a message to all servers of the network.
func udpBroadcast(from netip.Addr, payload []byte) []byte {
	const ip, udp = 20, 8
	b := make([]byte, ip+udp, ip+udp+len(payload))
	be := binary.BigEndian
	b[0] = 4<<4 | ip/4
	be.PutUint16(b[2:], uint16(ip+udp+len(payload)))
	b[8], b[9] = 64, syscall.IPPROTO_UDP
	if from.Is4() {
		copy(b[12:], from.AsSlice())
	}
	copy(b[16:], []byte{255, 255, 255, 255})
	be.PutUint16(b[10:], checksum(b[:ip]))
	be.PutUint16(b[ip:], clientPort)
	be.PutUint16(b[ip+2:], serverPort)
	be.PutUint16(b[ip+4:], uint16(udp+len(payload)))
	return append(b, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// udpPayload returns what a packet brings to the client's port; nothing where it is another packet.
func udpPayload(b []byte) []byte {
	be := binary.BigEndian
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != syscall.IPPROTO_UDP {
		return nil
	}
	head, total := int(b[0]&0x0f)*4, int(be.Uint16(b[2:]))
	if head < 20 || total > len(b) || total < head+8 || be.Uint16(b[6:])&0x3fff != 0 { // fragments are not put together
		return nil
	}
	udp := b[head:total]
	n := int(be.Uint16(udp[4:]))
	if be.Uint16(udp[2:]) != clientPort || n < 8 || n > len(udp) {
		return nil
	}
	return udp[8:n]
}
