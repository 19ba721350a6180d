package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway"
	"dormouse/internal/gateway/wire"
)

// openGateway opens the gateway, on what its own copy of the routes says for as
// long as the database can't be asked.
func (s *server) openGateway(ctx context.Context) error {
	if !s.c.has(roleGateway) {
		return nil
	}
	dir := s.dir.join("gateway")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the gateway's directory: %w", err)
	}
	proxies, err := s.c.proxies()
	if err != nil {
		return err
	}
	metrics := newGatewayMetrics(s.metrics)
	gw := gateway.New(gateway.Options{
		Routes: s.visits, Local: s.visits, Waker: s.visits, Report: s.visits, Dial: s.places.dial, Domain: s.c.gatewayDomain, Dir: dir,
		PortHosts: s.c.portHosts(), WakesPerHour: s.c.wakesPerHour, SourceWakesPerHour: s.c.sourceWakes, Engine: wire.Options{ProxyFrom: proxies}, Log: s.log, Metrics: metrics,
	})
	metrics.register(s.metrics, gw.Load)
	s.visits.gateway.Store(gw)
	var listeners []gateway.Listener
	for _, address := range s.c.gatewayListen {
		l, err := s.open("gateway", address)
		if len(listeners) > 0 && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)) {
			s.log.WithError(err).Warn("this machine has no such address; the gateway is reached at the others")
			continue
		}
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
			return err
		}
		listeners = append(listeners, gateway.Listener{Listener: l})
	}
	if err := s.openTLS(ctx, &listeners); err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		return err
	}
	s.background.Go(func() {
		if err := gw.Serve(ctx, listeners...); err != nil {
			s.failed <- fmt.Errorf("serving the gateway: %w", err)
		}
	})
	return nil
}

// retryDatabase is how often a database is tried that can't be reached.
const retryDatabase = 2 * time.Second

// awaitDatabase opens the database. Where that can't be reached and there are
// tenants here, who are served meanwhile, it is tried until it can.
func (s *server) awaitDatabase(ctx context.Context) error {
	for said := false; ; said = true {
		err := s.openDatabase(ctx)
		if err == nil || fleet.KindOf(err) != fleet.KindUnavailable || s.c.dev || !s.hasTenants() {
			return err
		}
		if !said {
			s.log.WithError(err).Error("the database can't be reached: tenants on this host are served and woken, and nothing else is done until it can")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.failed:
			return err
		case <-time.After(retryDatabase):
		}
	}
}

// hasTenants tells whether there are instances on this host.
func (s *server) hasTenants() bool { return s.places.kvm != nil && s.places.kvm.Instances() > 0 }
