package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dormouse/internal/fleet"
)

// portRange is FIRST-LAST, both included; the zero value is none.
type portRange struct{ first, last int }

// String implements pflag.Value.
func (r *portRange) String() string {
	if *r == (portRange{}) {
		return "none"
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

// Type implements pflag.Value.
func (r *portRange) Type() string { return "RANGE" }

// Set implements pflag.Value.
func (r *portRange) Set(text string) error {
	if text == "none" {
		*r = portRange{}
		return nil
	}
	first, last, _ := strings.Cut(text, "-")
	a, errA := strconv.Atoi(first)
	b, errB := strconv.Atoi(last)
	if errA != nil || errB != nil || a < 1024 || b > 65535 || a > b {
		return fmt.Errorf("%q is no range: write it FIRST-LAST, from 1024 to 65535, such as 30000-31999, or none", text)
	}
	*r = portRange{a, b}
	return nil
}

// offer tells the store which ports there are.
func (r portRange) offer(ctx context.Context, s interface {
	SetGatewayPorts(ctx context.Context, first, last int) error
}) error {
	if r == (portRange{}) {
		return s.SetGatewayPorts(ctx, 1, 0)
	}
	return s.SetGatewayPorts(ctx, r.first, r.last)
}

// poolsEvery is how often one process of all looks whether a pool runs dry.
const poolsEvery = 5 * time.Minute

// offerPorts offers the gateway's ports. Where the database is away, they are offered
// when it is back.
func (s *server) offerPorts(ctx context.Context) error {
	if err := s.c.gatewayPorts.offer(ctx, s.stores.singletons); err != nil {
		if fleet.KindOf(err) != fleet.KindUnavailable {
			return err
		}
		s.log.WithError(err).Warn("offering the ports of the gateway; it is tried again")
	}
	return nil
}

// lowPools is the metric of pools.
func (s *server) lowPools() (*prometheus.GaugeVec, error) {
	low := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "dormouse_pool_low", Help: "1 for each pool of addresses or ports of which less than a tenth is free."}, []string{"pool"})
	if err := s.metrics.Register(low); err != nil {
		return nil, fmt.Errorf("registering the metric of pools: %w", err)
	}
	return low, nil
}

// watchPools looks whether a pool of addresses or ports runs dry.
func (s *server) watchPools(ctx context.Context, low *prometheus.GaugeVec) error {
	if err := s.c.gatewayPorts.offer(ctx, s.stores.singletons); err != nil {
		return err
	}
	return repeat(ctx, wallClock{}, func(ctx context.Context) (time.Duration, error) { return poolsEvery, s.lookAtPools(ctx, low) })
}

func (s *server) lookAtPools(ctx context.Context, low *prometheus.GaugeVec) error {
	pools, err := s.stores.singletons.LowPools(ctx)
	if err != nil {
		return err
	}
	low.Reset()
	for _, p := range pools {
		low.WithLabelValues(p.Name).Set(1)
		if p.New {
			s.log.WithField("pool", p.Name).WithField("free", p.Free).WithField("size", p.Size).Warn("less than a tenth of a pool is free: what finds none waits or is refused")
		}
	}
	return nil
}
