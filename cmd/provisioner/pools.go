package main

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/store"
)

// split divides the connections to the database, so that who needs many can't
// keep the others from theirs.
type split struct {
	// api serves requests and the gateway's routes, engine claims, commits and
	// extends leases, singletons do what goes on beside: the sweep, the watcher,
	// retention, and what rollouts read.
	api, engine, singletons int
	// sessions are connections outside of the pools: one for each lead that the
	// process has or asks for, and the one that listens for work.
	sessions int
}

const (
	// leastPool is the smallest pool that works: one to use, one to prepare statements on.
	leastPool = 2
	// enginePool suffices for the engine whatever its slots are: two commits, a
	// claim, an extension and a release may be under way at once.
	enginePool = 6
	// singletonsPool likewise: each goes one statement at a time.
	singletonsPool = 6
)

// connections splits --database-conns among what the roles of this process need.
func (c *config) connections() (split, error) {
	s := split{}
	pools := 0
	if c.has(roleAPI) || c.has(roleGateway) {
		pools++
	}
	if c.has(roleSupervisor) {
		pools += 2
		s.sessions = 2 // the listener, and the lead of retention
		if c.has(roleHost) {
			s.sessions++ // the sweep of the host's own places
		}
		if c.simulator != "" {
			s.sessions++ // the sweep of the shared simulator
		}
	}
	left := c.databaseConns - s.sessions
	if least := pools * leastPool; left < least {
		return s, fleet.Errorf(fleet.KindInvalid, "--database-conns %d is too few: with the roles %s it takes %d at least",
			c.databaseConns, c.rolesText(), least+s.sessions)
	}
	if c.has(roleSupervisor) {
		s.engine = min(enginePool, max(leastPool, left/3))
		s.singletons = min(singletonsPool, max(leastPool, left/6))
		left -= s.engine + s.singletons
	}
	if c.has(roleAPI) || c.has(roleGateway) {
		s.api = left
	}
	return s, nil
}

func (s split) fields() logrus.Fields {
	return logrus.Fields{"api": s.api, "engine": s.engine, "singletons": s.singletons, "sessions": s.sessions}
}

// stores are the pools; nil where no role of this process needs one.
type stores struct{ api, engine, singletons *store.Store }

// openStores opens the pools, and has their state shown.
func openStores(ctx context.Context, url string, conns split, reg prometheus.Registerer) (s stores, err error) {
	shown := &poolMetrics{}
	for _, p := range []struct {
		into  **store.Store
		name  string
		conns int
	}{{&s.api, "api", conns.api}, {&s.engine, "engine", conns.engine}, {&s.singletons, "singletons", conns.singletons}} {
		if p.conns == 0 {
			continue
		}
		if *p.into, err = store.Open(ctx, store.Options{URL: url, MaxConns: p.conns, Name: p.name}); err != nil {
			return s, err
		}
		shown.pools = append(shown.pools, namedPool{p.name, *p.into})
	}
	if err := reg.Register(shown); err != nil {
		return s, fmt.Errorf("registering the metrics of the database's pools: %w", err)
	}
	return s, nil
}

// background is the pool of what is no request.
func (s stores) background() *store.Store {
	if s.singletons != nil {
		return s.singletons
	}
	return s.api
}

func (s stores) close() {
	for _, st := range []*store.Store{s.api, s.engine, s.singletons} {
		if st != nil {
			_ = st.Close() // it fails where a connection had broken before: nothing is lost by that
		}
	}
}

type namedPool struct {
	name  string
	store interface{ PoolStats() store.PoolStats }
}

// poolMetrics shows how busy the pools are when it is asked.
type poolMetrics struct{ pools []namedPool }

var (
	poolConnections = prometheus.NewDesc("dormouse_database_connections", "Connections to the database, by pool and use.", []string{"pool", "state"}, nil)
	poolMax         = prometheus.NewDesc("dormouse_database_connections_max", "Connections to the database at most.", []string{"pool"}, nil)
	poolWaiting     = prometheus.NewDesc("dormouse_database_waiting", "Callers that wait for a connection now.", []string{"pool"}, nil)
	poolWaits       = prometheus.NewDesc("dormouse_database_waits_total", "Callers that had to wait for a connection.", []string{"pool"}, nil)
	poolTimeouts    = prometheus.NewDesc("dormouse_database_wait_timeouts_total", "Callers that waited for a connection in vain.", []string{"pool"}, nil)
)

// Describe implements prometheus.Collector.
func (m *poolMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{poolConnections, poolMax, poolWaiting, poolWaits, poolTimeouts} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *poolMetrics) Collect(to chan<- prometheus.Metric) {
	for _, p := range m.pools {
		s := p.store.PoolStats()
		gauge := func(d *prometheus.Desc, n int, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), append([]string{p.name}, labels...)...)
		}
		gauge(poolConnections, s.InUse, "in-use")
		gauge(poolConnections, s.Idle, "idle")
		gauge(poolMax, s.Max)
		gauge(poolWaiting, s.Waiting)
		to <- prometheus.MustNewConstMetric(poolWaits, prometheus.CounterValue, float64(s.Waits), p.name)
		to <- prometheus.MustNewConstMetric(poolTimeouts, prometheus.CounterValue, float64(s.TimedOut), p.name)
	}
}
