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

// committed wakes who waits for the operation.
func (h *hub) committed(id fleet.OperationID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.waiters[string(id)]; ok {
		close(c)
		delete(h.waiters, string(id))
	}
}

// gatewayMetrics counts what the gateway does.
type gatewayMetrics struct {
	requests *prometheus.CounterVec
	lookups  *prometheus.CounterVec
	wakes    *prometheus.CounterVec
	refused  *prometheus.CounterVec
	phases   *prometheus.HistogramVec
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
	m.wakes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dormouse_gateway_wakes_total", Help: "Wakes that visits began, by result."}, []string{"result"})
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dormouse_gateway_refused_total", Help: "Answers of the gateway's own, by reason."}, []string{"reason"})
	m.phases = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "dormouse_gateway_wake_seconds", Help: "What the visitor who began a wake waited for, by phase.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 13)}, []string{"phase"})
	reg.MustRegister(m.requests, m.lookups, m.seconds, m.wakes, m.refused, m.phases)
	return m
}

// Wake implements gateway.Metrics.
func (m *gatewayMetrics) Wake(result string) { m.wakes.WithLabelValues(result).Inc() }

// Phase implements gateway.Metrics.
func (m *gatewayMetrics) Phase(phase gateway.Phase, elapsed time.Duration) {
	m.phases.WithLabelValues(string(phase)).Observe(elapsed.Seconds())
}

// Refused implements gateway.Metrics.
func (m *gatewayMetrics) Refused(reason string) { m.refused.WithLabelValues(reason).Inc() }

// register shows what is going on in a gateway now.
func (m *gatewayMetrics) register(reg prometheus.Registerer, load func() gateway.Load) {
	gauge := func(name, help string, value func(gateway.Load) int64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value(load())) }))
	}
	gauge("dormouse_gateway_held", "Requests that wait for a machine.", func(l gateway.Load) int64 { return l.Held })
	gauge("dormouse_gateway_open", "Requests and connections that were passed on and have not ended.", func(l gateway.Load) int64 { return l.Open })
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
