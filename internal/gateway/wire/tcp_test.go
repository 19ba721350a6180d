package wire

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/require"
)

// serveTCP is serve for plain TCP on port 1883, whatever the listener's is.
func serveTCP(t *testing.T, o Options) string {
	t.Helper()
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	s := New(o)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.ServeTCP(l, 1883) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return l.Addr().String()
}

func TestPlainTCP(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(conn, "welcome ") // servers speak first with some protocols
		_, _ = io.Copy(conn, r)
		_, _ = io.WriteString(conn, " bye")
	}))
	heads := make(chan Head, 3)
	h.enter = func(_ context.Context, head *Head) (*Pass, *Answer) {
		heads <- *head
		return h.next(), nil
	}
	address := serveTCP(t, Options{Handler: h})
	for _, size := range []int{0, 1, 5 << 20} { // the last takes the kernel's way
		client, r := dial(t, address)
		text := strings.Repeat("x", size)
		go func() { _, _ = io.WriteString(client, text); _ = client.CloseWrite() }()
		all, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "welcome "+text+" bye", string(all))
		require.Equal(t, ending{0, nil}, h.end(t))
		head := <-heads
		require.Equal(t, Head{Port: 1883, Client: head.Client}, head)
		require.Equal(t, "127.0.0.1", head.Client.Addr().String())
	}
	require.EqualValues(t, 5<<20+1, h.pass.Meter.In.Load())
	require.EqualValues(t, 5<<20+1+3*len("welcome  bye"), h.pass.Meter.Out.Load())
	require.Positive(t, h.pass.Meter.LastNano.Load())
}

func TestPlainTCPEnds(t *testing.T) {
	t.Parallel()
	began, closed := make(chan struct{}, 1), make(chan struct{}, 1)
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		began <- struct{}{}
		_, _ = r.ReadByte()
		closed <- struct{}{}
	}))
	broken := make(chan struct{})
	h.pass.Break = broken
	client, r := dial(t, serveTCP(t, Options{Handler: h}))
	<-began
	close(broken)
	_, err := r.ReadByte()
	require.Error(t, err)
	<-closed
	require.ErrorIs(t, h.end(t).err, ErrBroken)
	client.Close()

	refused := newRoute("")
	refused.enter = func(context.Context, *Head) (*Pass, *Answer) { return nil, &Answer{Status: 503} }
	_, r = dial(t, serveTCP(t, Options{Handler: refused}))
	_, err = r.ReadByte()
	require.ErrorIs(t, err, io.EOF, "closed without a word")

	gone := newRoute("127.0.0.1:1")
	_, r = dial(t, serveTCP(t, Options{Handler: gone}))
	_, err = r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.Error(t, gone.end(t).err)
	require.Empty(t, gone.wrong)

	// A client that leaves while it is waited for is noticed.
	left := make(chan error, 1)
	waits := newRoute("")
	waits.enter = func(ctx context.Context, _ *Head) (*Pass, *Answer) {
		began <- struct{}{}
		<-ctx.Done()
		left <- ctx.Err()
		return nil, nil
	}
	client, _ = dial(t, serveTCP(t, Options{Handler: waits, HeaderTimeout: 100 * time.Millisecond}))
	<-began
	require.NoError(t, client.Close())
	require.ErrorIs(t, <-left, context.Canceled)

	// After one side has ended, the other may not be silent for ever.
	h = newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = r.ReadByte()
	}))
	_, r = dial(t, serveTCP(t, Options{Handler: h, IdleTimeout: 50 * time.Millisecond}))
	_, err = r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.ErrorIs(t, h.end(t).err, ErrSlow)
}

func proxied(version byte, command proxyproto.ProtocolVersionAndCommand) string {
	transport := proxyproto.TCPv4
	header := proxyproto.Header{Version: version, Command: command, TransportProtocol: transport,
		SourceAddr: &net.TCPAddr{IP: net.IPv4(1, 2, 3, 4), Port: 5}, DestinationAddr: &net.TCPAddr{IP: net.IPv4(6, 7, 8, 9), Port: 10}}
	p, err := header.Format()
	if err != nil {
		panic(err)
	}
	return string(p)
}

func TestProxyHeaders(t *testing.T) {
	t.Parallel()
	trusted, others := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	h := newRoute(instance(t, echo))
	const last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	_, gateway := serve(t, Options{Handler: h, ProxyFrom: trusted, HeaderTimeout: 100 * time.Millisecond})
	for text, want := range map[string]string{
		proxied(1, proxyproto.PROXY) + last: "X-Forwarded-For: 1.2.3.4\r\n",
		proxied(2, proxyproto.PROXY) + last: "X-Forwarded-For: 1.2.3.4\r\n",
		proxied(2, proxyproto.LOCAL) + last: "X-Forwarded-For: 127.0.0.1\r\n",
		last:                                "",
		"PROXY TCP4 1.2.3.4\r\n" + last:     "",
		"PROXY UNKNOWN\r\n" + last:          "X-Forwarded-For: 127.0.0.1\r\n",
		"PROXY TCP4 ":                       "", // and nothing more
	} {
		if answer := ask(t, gateway, text); want == "" {
			require.Empty(t, answer, text)
		} else {
			require.Contains(t, answer, want, text)
		}
	}
	_, gateway = serve(t, Options{Handler: h, ProxyFrom: others})
	require.Contains(t, ask(t, gateway, proxied(1, proxyproto.PROXY)+last), "HTTP/1.1 400")
	require.Contains(t, ask(t, gateway, last), "X-Forwarded-For: 127.0.0.1\r\n")

	// Towards an instance of plain TCP.
	for _, version := range []byte{1, 2} {
		heard := make(chan string, 1)
		h := newRoute(instance(t, func(_ int, _ net.Conn, r *bufio.Reader) {
			header, err := proxyproto.Read(r)
			if err != nil {
				heard <- err.Error()
				return
			}
			rest, _ := io.ReadAll(r)
			heard <- header.SourceAddr.String() + " " + string(rest)
		}))
		h.pass.ProxyHeader = version
		address := serveTCP(t, Options{Handler: h, ProxyFrom: trusted})
		client, _ := dial(t, address)
		send(t, client, proxied(2, proxyproto.PROXY)+"hello")
		require.NoError(t, client.CloseWrite())
		require.Equal(t, "1.2.3.4:5 hello", <-heard)
	}
}
