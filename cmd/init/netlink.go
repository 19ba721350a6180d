package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// rtnetlink is a socket of rtnetlink(7), the kernel's way to set links, addresses
// and routes for both families alike.
type rtnetlink struct {
	fd  int
	seq uint32
}

func openNetlink() (*rtnetlink, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	return &rtnetlink{fd: fd}, nil
}

func (n *rtnetlink) close() { _ = syscall.Close(n.fd) }

// request sends one request and waits for the kernel's acknowledgement.
func (n *rtnetlink) request(kind uint16, flags uint16, body []byte) error {
	n.seq++
	msg := netlinkMessage(kind, flags|syscall.NLM_F_REQUEST|syscall.NLM_F_ACK, n.seq, body)
	if err := syscall.Sendto(n.fd, msg, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 8192)
	for {
		got, _, err := syscall.Recvfrom(n.fd, buf, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		answers, err := syscall.ParseNetlinkMessage(buf[:got])
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Seq != n.seq || a.Header.Type != syscall.NLMSG_ERROR {
				continue
			}
			if len(a.Data) < 4 {
				return errors.New("the kernel's answer is too short")
			}
			if code := int32(binary.NativeEndian.Uint32(a.Data)); code != 0 {
				return syscall.Errno(-code)
			}
			return nil
		}
	}
}

// netlinkMessage puts the header (struct nlmsghdr) before a body.
func netlinkMessage(kind, flags uint16, seq uint32, body []byte) []byte {
	msg := make([]byte, 0, syscall.NLMSG_HDRLEN+len(body))
	msg = binary.NativeEndian.AppendUint32(msg, uint32(syscall.NLMSG_HDRLEN+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, flags)
	msg = binary.NativeEndian.AppendUint32(msg, seq)
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	return append(msg, body...)
}

// attribute appends one struct rtattr with its padding to 4 bytes.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func uint32Bytes(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
