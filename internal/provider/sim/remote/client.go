package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// Options are how a Client is made.
type Options struct {
	// URL is http:// with a loopback address and a port, or unix: and a socket's path.
	URL string
	// OnChange is told of changes of instances that no call's answer tells of; it
	// must not block, and may be nil.
	OnChange func(fleet.InstanceID)
	// Log is told when the simulator goes and comes; nil is silence.
	Log logrus.FieldLogger
}

// Client stands in for the simulator that a Server has. All methods may be
// called concurrently. Their errors are the simulator's own, and KindUnavailable
// where it can't be reached; see sim.Provider for what they do.
type Client struct {
	url, base string
	// id names this client to the server; empty where it wants no signals.
	id        []string
	transport *http.Transport
	log       logrus.FieldLogger

	stop   context.CancelFunc
	polled sync.WaitGroup
}

// idleConnections are kept for the next calls: more than any engine has slots.
const idleConnections = 1024

// New returns a client. It does not connect, so the simulator may come later.
// Error: KindInvalid for a URL that is not of this machine.
func New(o Options) (*Client, error) {
	network, address, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	c := &Client{url: o.URL, base: "http://" + address, log: o.Log, stop: func() {}}
	if c.log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		c.log = silent
	}
	if network == "unix" {
		c.base = "http://simulator"
	}
	var dialer net.Dialer
	c.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		MaxIdleConns: idleConnections, MaxIdleConnsPerHost: idleConnections, DisableCompression: true,
	}
	if o.OnChange != nil {
		c.id = []string{fleet.NewID()}
		ctx, cancel := context.WithCancel(context.Background())
		c.stop = cancel
		c.polled.Go(func() { c.poll(ctx, o.OnChange) })
	}
	return c, nil
}

// CheckURL tells whether New would take that URL. Error: KindInvalid.
func CheckURL(url string) error {
	_, _, err := parseURL(url)
	return err
}

// parseURL returns what to dial.
func parseURL(text string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok && path != "" {
		return "unix", path, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
		return "", "", fleet.Errorf(fleet.KindInvalid, "the simulator's URL %q: want http://127.0.0.1:PORT or unix:PATH", text)
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", "", fleet.Errorf(fleet.KindInvalid, "the simulator's URL %q: it is for this machine alone, so name a loopback address", text)
	}
	return "tcp", u.Host, nil
}

// Close ends the signals and the connections. The simulator lives on.
func (c *Client) Close() error {
	c.stop()
	c.polled.Wait()
	c.transport.CloseIdleConnections()
	return nil
}

// call makes a call of the provider.
func call[Out any](ctx context.Context, c *Client, name, object string, in any) (Out, error) {
	var out answer[Out]
	if err := c.do(ctx, http.MethodPost, "/call/"+name, in, &out); err != nil {
		var zero Out
		return zero, describe(err, name, object)
	}
	return out.Result, out.Error.decode()
}

// describe says about what a call was that did not come through.
func describe(err error, name, object string) error {
	if kind := fleet.KindOf(err); kind != fleet.KindInternal {
		return fleet.Errorf(kind, "%s %s: %w", name, object, err)
	}
	return fmt.Errorf("%s %s: %w", name, object, err)
}

// do sends a request and reads the answer into out.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	response, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return c.receive(ctx, response, out)
}

// send returns an answer of status 200. Error: the context's own, or KindUnavailable.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var content io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	if c.id != nil {
		request.Header[clientHeader] = c.id
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		_ = response.Body.Close()
		return nil, fleet.Errorf(fleet.KindUnavailable, "the simulator at %s answered %s (%s): make sure that it is one, and of this version",
			c.url, response.Status, bytes.TrimSpace(text))
	}
	return response, nil
}

// receive reads the answer, to the end of its body, so that the connection can be used again.
func (c *Client) receive(ctx context.Context, response *http.Response, out any) error {
	buffer := buffers.Get().(*body)
	defer buffer.done()
	content, err := buffer.read(response.Body, response.ContentLength)
	if err != nil {
		return c.broken(ctx, err)
	}
	if err := json.Unmarshal(content, out); err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "reading the answer of the simulator at %s: %w: make sure that it is one, and of this version", c.url, err)
	}
	return nil
}

// broken tells the end of the caller's context from that of the connection.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fleet.Errorf(fleet.KindUnavailable, "the simulator at %s: %w: see whether it runs (provisioner simulator)", c.url, err)
}

// slim leaves out what the simulator has no use for, secrets above all.
func slim(spec fleet.InstanceSpec) fleet.InstanceSpec {
	behaviour, ok := spec.Env[sim.BehaviourVariable]
	spec.Env, spec.Manifest = nil, fleet.Manifest{Ports: spec.Manifest.Ports}
	if ok {
		spec.Env = map[string]string{sim.BehaviourVariable: behaviour}
	}
	return spec
}
