package gateway

import (
	"bufio"
	"context"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// DefaultDomain is the domain under which installations are reached where none
// is given. Browsers and most resolvers send every name under it to loopback
// (RFC 6761, section 6.3).
const DefaultDomain = "localhost"

// Route is where an installation is.
type Route = fleet.Route

// Routes finds installations by name.
type Routes interface {
	// Route returns KindNotFound where no installation that is not deleted has
	// that name.
	Route(ctx context.Context, name string) (Route, error)
}

// Metrics is told what the gateway does. Its methods are called concurrently
// and must return at once.
type Metrics interface {
	// Request is told of each request when it has ended, upgraded connections
	// included. The status is 0 where the client was gone before an answer.
	Request(status int, elapsed time.Duration)
	// Lookup is told of each question to Routes: "found", "unknown" or "failed".
	Lookup(result string)
}

// Options configure a Gateway.
type Options struct {
	// Routes and Dial are required. Dial connects to a Route's address.
	Routes Routes
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// Domain is what follows an installation's name in its host name;
	// DefaultDomain where empty.
	Domain string
	// DialTimeout bounds connecting to an instance; 0 is 2 s.
	DialTimeout time.Duration
	// AnswerTimeout bounds the wait for the head of an answer; 0 is 2 minutes.
	// The body may take as long as it takes.
	AnswerTimeout time.Duration
	// Log and Metrics may be nil.
	Log     logrus.FieldLogger
	Metrics Metrics
	// Clock is time.Now where nil.
	Clock func() time.Time
}

// Gateway is the http.Handler that passes requests on.
type Gateway struct {
	suffix  string
	routes  *cache
	proxy   *httputil.ReverseProxy
	log     logrus.FieldLogger
	metrics Metrics
	clock   func() time.Time
}

type noMetrics struct{}

func (noMetrics) Request(int, time.Duration) {}
func (noMetrics) Lookup(string)              {}

// New returns a gateway. Serve it with NewServer, which guards against slow clients.
func New(o Options) *Gateway {
	if o.Domain == "" {
		o.Domain = DefaultDomain
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 2 * time.Second
	}
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = 2 * time.Minute
	}
	if o.Log == nil {
		quiet := logrus.New()
		quiet.SetLevel(logrus.PanicLevel)
		o.Log = quiet
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	g := &Gateway{
		suffix:  "." + strings.ToLower(strings.Trim(o.Domain, ".")),
		routes:  newCache(o.Routes, o.Metrics, o.Clock),
		log:     o.Log,
		metrics: o.Metrics,
		clock:   o.Clock,
	}
	g.proxy = &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     newTransport(o),
		FlushInterval: -1, // events are worth nothing in a buffer
		ErrorHandler:  g.backendFailed,
		ErrorLog:      log.New(logWriter{o.Log}, "", 0),
	}
	return g
}

// NewServer returns a server for a gateway, ready for Serve. A client has 10 s
// to send a request's head and 2 minutes between requests; bodies and answers
// may take as long as they take.
func NewServer(g *Gateway) *http.Server {
	return &http.Server{
		Handler:           g,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(logWriter{g.log}, "", 0),
	}
}

// logWriter passes on what the standard library logs.
type logWriter struct{ log logrus.FieldLogger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.WithField("component", "gateway").Warn(strings.TrimSpace(string(line)))
	return len(line), nil
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := g.clock()
	recorder := &recorder{ResponseWriter: w}
	defer func() { g.metrics.Request(recorder.status, g.clock().Sub(begin)) }()
	route, refusal := g.route(r)
	if refusal != nil {
		refusal.write(recorder, r)
		return
	}
	g.proxy.ServeHTTP(recorder, r.WithContext(context.WithValue(r.Context(), routeKey{}, route)))
}

// route returns where a request goes, or why it goes nowhere.
func (g *Gateway) route(r *http.Request) (Route, *refusal) {
	if r.Method == http.MethodConnect {
		return Route{}, &refusal{status: http.StatusMethodNotAllowed, title: "This is no forward proxy"}
	}
	name, refused := installationName(r.Host, g.suffix)
	if refused != nil {
		return Route{}, refused
	}
	route, err := g.routes.route(r.Context(), name)
	switch {
	case fleet.KindOf(err) == fleet.KindNotFound:
		return Route{}, unknown(name)
	case err != nil:
		g.log.WithError(err).WithField("installation", name).Warn("looking up a route")
		return Route{}, &refusal{status: http.StatusServiceUnavailable, title: "Try again in a moment",
			detail: "Where this workspace is can't be found out right now.", retryAfter: 2 * time.Second}
	}
	return route, unavailable(route)
}

// installationName takes an installation's name out of a Host header.
func installationName(host, suffix string) (string, *refusal) {
	bad := &refusal{status: http.StatusBadRequest, title: "Bad host name", detail: "Use the address NAME" + suffix + " of a workspace."}
	if strings.HasPrefix(host, "[") {
		return "", bad // an IPv6 literal
	}
	if name, port, ok := strings.Cut(host, ":"); ok {
		if port == "" || strings.Trim(port, "0123456789") != "" {
			return "", bad
		}
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || net.ParseIP(host) != nil {
		return "", bad
	}
	name, ok := strings.CutSuffix(host, suffix)
	if !ok || strings.Contains(name, ".") {
		return "", &refusal{status: http.StatusNotFound, title: "No such workspace", detail: bad.detail}
	}
	if !isLabel(name) {
		return "", bad
	}
	return name, nil
}

// isLabel tells whether s is a DNS label (RFC 1123, section 2.1) in lower case.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// recorder remembers the status of an answer. Unwrap lets the reverse proxy
// flush.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status < 200 && r.status != http.StatusSwitchingProtocols { // 1xx are followed by the real one
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Hijack implements http.Hijacker: the reverse proxy takes over the connection
// to answer an upgrade, past WriteHeader.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// Unwrap lets http.ResponseController reach the rest.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
