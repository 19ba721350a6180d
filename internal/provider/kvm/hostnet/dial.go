package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// DialContext implements Network. Only the making of the socket happens in the
// namespace; a socket stays in the namespace in which it was made.
func (b *Bridge) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := dialTarget(network, address)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, dialError(network, target, err)
	}
	fd := -1
	err = b.ns.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, dialError(network, target, err)
	}
	conn, err := connect(ctx, fd, target)
	if err != nil {
		return nil, dialError(network, target, err)
	}
	return conn, nil
}

func dialError(network string, target netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(target), Err: err}
}

// connect connects a non-blocking socket and takes it over: it is closed, or it
// is the connection that is returned.
func connect(ctx context.Context, fd int, target netip.AddrPort) (net.Conn, error) {
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: target.Addr().As4(), Port: int(target.Port())})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR) {
		return nil, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	// The runtime watches the socket from here on: waiting holds no thread.
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close() // the connection is a duplicate
	stop := context.AfterFunc(ctx, func() {
		_ = f.SetDeadline(time.Unix(1, 0)) // it fails only if the socket is closed already
	})
	err = awaitConnected(f)
	if !stop() && err != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// awaitConnected waits until the connection stands, was refused, or the file's
// deadline has passed.
func awaitConnected(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || code != 0 {
			if err == nil {
				err = unix.Errno(code)
			}
			result = os.NewSyscallError("connect", err)
			return true
		}
		// No error yet: connected, or still at it. Only a socket that is
		// connected has a peer.
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	return errors.Join(err, result)
}
