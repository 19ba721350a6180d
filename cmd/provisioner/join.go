package main

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/rollout"
)

// acceptingStore tells the supervisors of accepted work at once.
type acceptingStore struct {
	*store.Store
	accepted func()
}

func (s acceptingStore) CreateInstallation(ctx context.Context, in fleet.NewInstallation) (fleet.Accepted, error) {
	a, err := s.Store.CreateInstallation(ctx, in)
	if err == nil {
		s.accepted()
	}
	return a, err
}

func (s acceptingStore) ChangeInstallation(ctx context.Context, in fleet.Change) (fleet.Accepted, error) {
	a, err := s.Store.ChangeInstallation(ctx, in)
	if err == nil {
		s.accepted()
	}
	return a, err
}

func (s acceptingStore) CreateRollout(ctx context.Context, in fleet.NewRollout) (fleet.RolloutView, error) {
	v, err := s.Store.CreateRollout(ctx, in)
	if err == nil {
		s.accepted()
	}
	return v, err
}

func (s acceptingStore) ControlRollout(ctx context.Context, in fleet.RolloutControl) (fleet.RolloutView, error) {
	v, err := s.Store.ControlRollout(ctx, in)
	if err == nil {
		s.accepted()
	}
	return v, err
}

func (s acceptingStore) CreateCluster(ctx context.Context, in fleet.NewCluster) (fleet.ClusterView, error) {
	c, err := s.Store.CreateCluster(ctx, in)
	if err == nil {
		s.accepted()
	}
	return c, err
}

func (s acceptingStore) DeleteCluster(ctx context.Context, idOrName string, key fleet.IdempotencyKey) (fleet.ClusterView, error) {
	c, err := s.Store.DeleteCluster(ctx, idOrName, key)
	if err == nil {
		s.accepted()
	}
	return c, err
}

func (s acceptingStore) CheckCluster(ctx context.Context, in fleet.CheckCluster) (fleet.ClusterView, error) {
	c, err := s.Store.CheckCluster(ctx, in)
	if err == nil {
		s.accepted()
	}
	return c, err
}

func (s acceptingStore) ControlHost(ctx context.Context, in fleet.HostControl) (fleet.HostView, error) {
	v, err := s.Store.ControlHost(ctx, in)
	if err == nil {
		s.accepted()
	}
	return v, err
}

// planner lets the API fill in and plan rollouts as their workflow does.
type planner struct{}

func (planner) Normalise(spec fleet.RolloutSpec, members int) (fleet.RolloutSpec, error) {
	return rollout.Normalise(spec, members)
}

func (planner) Plan(spec fleet.RolloutSpec, members []fleet.RolloutMember) []fleet.RolloutMember {
	return rollout.Plan(spec, members)
}

// hub tells the API's long polls of operations that have changed.
type hub struct {
	mu      sync.Mutex
	waiters map[string]chan struct{}
}

func newHub() *hub { return &hub{waiters: map[string]chan struct{}{}} }

// Changed implements api.Watcher.
func (h *hub) Changed(operation string) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.waiters[operation]
	if !ok {
		c = make(chan struct{})
		h.waiters[operation] = c
	}
	return c
}

// committed wakes who waits for one of these operations.
func (h *hub) committed(ids []fleet.OperationID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		if c, ok := h.waiters[string(id)]; ok {
			close(c)
			delete(h.waiters, string(id))
		}
	}
}

// routes lets the gateway ask the store.
type routes struct{ store *store.Store }

func (r routes) Route(ctx context.Context, name string) (gateway.Route, error) {
	return r.store.Route(ctx, name)
}

// gatewayMetrics counts what the gateway does.
type gatewayMetrics struct {
	requests *prometheus.CounterVec
	lookups  *prometheus.CounterVec
	seconds  prometheus.Histogram
}

func newGatewayMetrics(reg prometheus.Registerer) *gatewayMetrics {
	m := &gatewayMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dormouse_gateway_requests_total", Help: "Requests that ended, by status; 0 where the client went away."}, []string{"status"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dormouse_gateway_lookups_total", Help: "Lookups of routes, by result."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dormouse_gateway_request_seconds", Help: "Duration of requests.", Buckets: prometheus.ExponentialBuckets(0.001, 3, 10)}),
	}
	reg.MustRegister(m.requests, m.lookups, m.seconds)
	return m
}

// Request implements gateway.Metrics.
func (m *gatewayMetrics) Request(status int, elapsed time.Duration) {
	m.requests.WithLabelValues(strconv.Itoa(status)).Inc()
	m.seconds.Observe(elapsed.Seconds())
}

// Lookup implements gateway.Metrics.
func (m *gatewayMetrics) Lookup(result string) { m.lookups.WithLabelValues(result).Inc() }

// wallClock is the engine's clock.
type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

func (wallClock) AfterFunc(d time.Duration, f func()) (stop func()) {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}
