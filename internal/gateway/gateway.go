package gateway

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

// DefaultDomain is the domain under which installations are reached where none
// is given. Browsers and most resolvers send every name under it to loopback
// (RFC 6761, section 6.3).
const DefaultDomain = "localhost"

// Route is where an installation is.
type Route = fleet.Route

// Routes is what the control plane says about installations.
type Routes interface {
	// Route returns the installation that is reached by a host name, which is in
	// lower case and without a port: NAME.DOMAIN, or one of the route's DNSNames,
	// which are in lower case and not under DOMAIN.
	// KindNotFound where there is none that is not deleted.
	Route(ctx context.Context, host string) (Route, error)
	// All lists the installations of the hosts here, in the order of their IDs,
	// from the first after the one given; next is "" at the end.
	All(ctx context.Context, after string) (routes []Route, next string, err error)
}

// Local is what this host knows of its own machines. Where it knows one, its
// word counts more than that of Routes.
type Local interface {
	// Here returns what the host knows of an instance; false where it is not here.
	// It is asked at every request and under a lock: it answers from memory, and
	// calls nothing of the gateway.
	Here(id fleet.InstanceID) (Here, bool)
}

// Here is what a host knows of one of its machines.
type Here struct {
	// Serves: it is on, and has said that it is ready if it says such things.
	Serves bool
	// Asleep: it is off because it was suspended, and a visit may wake it.
	Asleep bool
	// Off: it does not run, and what is open to this run of it will never be answered.
	Off bool
	// Endpoints are where it is reached while it serves; where there are none,
	// what Routes said is used.
	Endpoints []fleet.Endpoint
	// Run names this run of the machine, where the host has a name for it.
	Run string
	// Tier is how the memory of one that is asleep is kept; empty is unknown.
	Tier fleet.SleepTier
}

// Waker wakes sleepers.
type Waker interface {
	// Wake returns when the installation serves, or with the reason why it does
	// not. It is called once however many wait, also for one that somebody else
	// is waking, making, restarting, updating or moving: then it just waits. It
	// must respect ctx.
	Wake(ctx context.Context, route Route) (Woken, error)
}

// Woken is what came of a wake.
type Woken struct {
	// Route is where the installation serves now.
	Route Route
	// Restore is how long it took until the machine ran; 0 is unknown.
	Restore time.Duration
}

// Options configure a Gateway.
type Options struct {
	// Routes and Dial are required. Dial connects to an instance's address.
	Routes Routes
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// Local may be nil: then only Routes is believed.
	Local Local
	// Waker may be nil: then a request for what does not serve is refused.
	Waker Waker
	// Report may be nil: then activity is only counted.
	Report Report
	// Domain is what follows an installation's name in its host name;
	// DefaultDomain where empty.
	Domain string
	// Dir is an existing directory of the gateway's own, for its copy of the
	// routes; where empty, none is kept.
	Dir string
	// FreshFor is how long a route is used without asking again, unless Changed
	// says so; 0 is 30 s.
	FreshFor time.Duration
	// Engine bounds connections, heads and times, says who sends PROXY headers, and
	// whether HTTP/2 is spoken without TLS. Its Handler, Dial and Panicked are the
	// gateway's; DialTimeout is 2 s and AnswerTimeout 2 minutes where they are 0.
	Engine wire.Options
	// PortHosts are the addresses on which the gateway's own TCP ports are opened;
	// where there are none, they are not.
	PortHosts []string
	// HoldTime bounds how long a request is held; 0 is 30 s. PageAfter is how long
	// a browser is held before it gets the page that says so; 0 is 2.5 s.
	HoldTime, PageAfter time.Duration
	// WakeTime bounds one wake, which goes on when nobody waits any more; 0 is 2 minutes.
	WakeTime time.Duration
	// MaxHeld and MaxHeldEach bound the requests held at once, of all
	// installations and of each; 0 is 10,000 and 1,000. MaxHeldBytes bounds what
	// their heads take; 0 is 64 MiB.
	MaxHeld, MaxHeldEach int
	MaxHeldBytes         int64
	// WakesPerHour bounds the wakes of an installation whose rules say nothing;
	// 0 is 120. SourceWakesPerHour bounds those that one network causes (/24 of
	// IPv4, /56 of IPv6); 0 is 1,200. Below 0 is unbounded.
	WakesPerHour, SourceWakesPerHour int
	// ReportEvery is how often activity is reported; 0 is 10 s.
	ReportEvery time.Duration
	// Log and Metrics may be nil.
	Log     logrus.FieldLogger
	Metrics Metrics
}

func orDefault[T comparable](value *T, standard T) {
	var zero T
	if *value == zero {
		*value = standard
	}
}

func (o *Options) setDefaults() {
	orDefault(&o.Domain, DefaultDomain)
	orDefault(&o.FreshFor, 30*time.Second)
	orDefault(&o.Engine.DialTimeout, 2*time.Second)
	orDefault(&o.Engine.AnswerTimeout, 2*time.Minute)
	orDefault(&o.HoldTime, 30*time.Second)
	orDefault(&o.PageAfter, 2500*time.Millisecond)
	orDefault(&o.WakeTime, 2*time.Minute)
	orDefault(&o.MaxHeld, 10000)
	orDefault(&o.MaxHeldEach, 1000)
	orDefault(&o.MaxHeldBytes, 64<<20)
	orDefault(&o.WakesPerHour, 120)
	orDefault(&o.SourceWakesPerHour, 1200)
	orDefault(&o.ReportEvery, 10*time.Second)
	if o.Log == nil {
		quiet := logrus.New()
		quiet.SetLevel(logrus.PanicLevel)
		o.Log = quiet
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
}

// Gateway is the wire.Handler that says where each request goes.
type Gateway struct {
	o       Options
	suffix  string // "." and the domain
	book    *book
	log     logrus.FieldLogger
	metrics Metrics
	sources *budgets
	pace    pace
	ports   *ports

	held, heldBytes, open atomic.Int64
	// server is set while it serves.
	server atomic.Pointer[wire.Server]

	// wakes are the wakes under way; they end with life.
	wakes sync.WaitGroup
	life  context.Context
	end   context.CancelFunc

	mu    sync.RWMutex
	doors map[fleet.InstallationID]*door
}

var _ wire.Handler = (*Gateway)(nil)

// New returns a gateway that knows what its directory says. It answers at once;
// Serve opens it and keeps what it knows up to date.
func New(o Options) *Gateway {
	o.setDefaults()
	g := &Gateway{
		o:       o,
		suffix:  "." + strings.ToLower(strings.Trim(o.Domain, ".")),
		log:     o.Log.WithField("component", "gateway"),
		metrics: o.Metrics,
		sources: newBudgets(maxSources, o.SourceWakesPerHour),
		doors:   make(map[fleet.InstallationID]*door),
	}
	g.life, g.end = context.WithCancel(context.Background())
	g.ports = newPorts(g)
	g.book = newBook(g)
	return g
}

// door returns an installation's door.
func (g *Gateway) door(id fleet.InstallationID) *door {
	g.mu.RLock()
	d := g.doors[id]
	g.mu.RUnlock()
	if d != nil {
		return d
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if d = g.doors[id]; d == nil {
		d = newDoor(g, id)
		g.doors[id] = d
	}
	return d
}

// allDoors returns the doors there are.
func (g *Gateway) allDoors() []*door {
	g.mu.RLock()
	defer g.mu.RUnlock()
	all := make([]*door, 0, len(g.doors))
	for _, d := range g.doors {
		all = append(all, d)
	}
	return all
}

// closeIdle closes the kept connections to a machine in one run of it.
func (g *Gateway) closeIdle(key string) {
	if server := g.server.Load(); server != nil && key != "" {
		server.CloseIdle(key)
	}
}

// Changed says that what Routes would say of an installation may be new. It
// returns at once.
func (g *Gateway) Changed(id fleet.InstallationID) {
	g.book.changed(id)
	g.mu.RLock()
	d := g.doors[id]
	g.mu.RUnlock()
	if d != nil {
		d.look()
	}
}

// Allowed returns nil where an installation is reached by a host name: only such
// names are worth a certificate. Else it is KindNotFound, or why it can't be
// known.
func (g *Gateway) Allowed(ctx context.Context, name string) error {
	host, ok := hostName(name)
	if !ok {
		return notFound(name)
	}
	e, err := g.book.find(ctx, host)
	if err == nil && leaving(e.route.State) {
		return notFound(name)
	}
	return err
}
