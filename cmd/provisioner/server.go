package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"dormouse/internal/api"
	"dormouse/internal/devpg"
	"dormouse/internal/fleet"
	"dormouse/internal/sealed"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/idle"
	"dormouse/internal/supervisor/installation"
)

func serverCommand() *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane",
		Long: `Run the control plane: the REST API, the supervisors, the host agent and the gateway.

With --dev it needs no configuration: a private Postgres runs in the data directory, and
Ctrl-C stops the virtual machines and the database that were started. Any other end
(SIGTERM, SIGKILL, an upgrade) leaves both running, and the next start adopts them.

Several on one database need the same key for tenants' secrets, secret.key in the data
directory of the first: copy it into the others' before they start, or name one file for all
with --secret-key-file. One that has another key is refused, as is one whose key is lost.

Every flag can be given in the environment: --data-dir as DORMOUSE_DATA_DIR, and so on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return serve(cmd.Context(), c)
		},
	}
	c.bind(cmd.Flags())
	return cmd
}

// server is the running control plane, in the order in which its parts begin.
type server struct {
	c        config
	log      *logrus.Logger
	dir      *dataDir
	pg       *devpg.Server
	database string
	stores   stores
	box      *sealed.Box
	metrics  *prometheus.Registry
	places   *places
	engine   *engine.Engine
	hub      *hub
	// calls gathers the notifications of a process without an engine.
	calls gather
	// signals and watcher are where the providers' signals go, once they run:
	// adopted machines may signal before.
	signals  atomic.Pointer[engine.Engine]
	watcher  atomic.Pointer[installation.Watcher]
	visitors atomic.Pointer[visits]
	// visits joins gateway and host; nil where there is no host.
	visits *visits

	background sync.WaitGroup
	failed     chan error
}

func serve(ctx context.Context, c config) error {
	log, err := newLogger(c)
	if err != nil {
		return err
	}
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var got os.Signal
	caught := make(chan struct{})
	go func() {
		select {
		case got = <-interrupts:
			log.WithField("signal", got.String()).Info("stopping")
			close(caught)
			cancel()
		case <-ctx.Done():
		}
	}()
	s := &server{c: c, log: log, metrics: prometheus.NewRegistry(), hub: newHub(), failed: make(chan error, 8)}
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	err = s.run(ctx)
	stopAll := false
	select {
	case <-caught:
		// Only Ctrl-C in --dev stops what was started; any other end leaves it to the next start.
		stopAll = c.dev && got == os.Interrupt
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	default:
	}
	// A part that failed ends the others too: stop waits for them.
	cancel()
	return errors.Join(err, s.stop(stopAll))
}

// run starts everything and returns when ctx ends or a part fails for good.
func (s *server) run(ctx context.Context) error {
	// Tenants come first: they are served and woken whether there is a control plane or not.
	steps := []func(context.Context) error{s.openData, s.openPlaces, s.openGateway, s.awaitDatabase, s.openSecrets, s.joinPlaces,
		s.startEngine, s.startSupervision, s.listen}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.failed:
		return err
	}
}

func (s *server) openData(context.Context) (err error) {
	s.dir, err = openDataDir(s.c.dataDir)
	return err
}

func (s *server) openDatabase(ctx context.Context) (err error) {
	s.database = s.c.database
	if s.c.dev {
		if s.pg, err = s.startPostgres(ctx); err != nil {
			return err
		}
		s.database = s.pg.URL()
		if err := writeFile(s.dir.join("database-url"), []byte(s.database+"\n"), 0o600); err != nil {
			return err
		}
		before, after, err := store.Migrate(ctx, s.database)
		if err != nil {
			return err
		}
		if before != after {
			s.log.WithFields(logrus.Fields{"from": before, "to": after}).Info("migrated the database")
		}
	}
	conns, err := s.c.connections()
	if err != nil {
		return err
	}
	if s.stores, err = openStores(ctx, s.database, conns, s.metrics); err != nil {
		s.stores.close()
		s.stores = stores{}
		return err
	}
	s.log.WithFields(conns.fields()).Info("connections to the database at most")
	if s.pg != nil {
		s.background.Go(func() { s.keepPostgres(ctx) })
	}
	return nil
}

func (s *server) openSecrets(ctx context.Context) (err error) {
	s.box, err = openKey(ctx, s.stores.background(), s.c.keyFile(), s.log)
	return err
}

// listen opens the API. It and the gateway are open before the line that says so.
func (s *server) listen(ctx context.Context) error {
	if s.c.has(roleAPI) {
		hashKey, err := s.box.Derive("idempotency-key hashes")
		if err != nil {
			return err
		}
		handler, err := api.New(api.Options{
			Store: acceptingStore{s.stores.api, s.accepted}, Packages: s.places.builder, Images: s.places.imageStore(), ImageContents: s.places.imageStore(), Kernels: s.places.releases, Tracer: s.places, Consoles: s.places, Watch: s.hub, Seal: s.box, Planner: planner{},
			Schedules: idle.Schedules{}, GatewayURL: s.gatewayURL, Log: s.log, Metrics: s.metrics, HashKey: hashKey,
		})
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
		if err := s.serveHTTP(ctx, "api", s.c.listen, srv); err != nil {
			return err
		}
	}
	s.log.WithFields(logrus.Fields{"version": version, "roles": s.c.rolesText(), "data_dir": s.dir.path, "worker": s.dir.worker}).Info("ready")
	return nil
}

// open listens for a part.
func (s *server) open(name, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindUnavailable, "listening for the %s: %w: stop what listens there, or choose another address", name, err)
	}
	s.log.WithFields(logrus.Fields{"part": name, "address": l.Addr().String()}).Info("listening")
	return l, nil
}

func (s *server) serveHTTP(ctx context.Context, name, addr string, srv *http.Server) error {
	l, err := s.open(name, addr)
	if err != nil {
		return err
	}
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	s.background.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serving the %s: %w", name, err)
		}
	})
	s.background.Go(func() {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if srv.Shutdown(last) != nil {
			_ = srv.Close()
		}
	})
	return nil
}

// gatewayURL is where an installation's users reach it.
func (s *server) gatewayURL(name string) string {
	_, port, err := net.SplitHostPort(s.c.gatewayListen[0])
	host := name + "." + s.c.gatewayDomain
	if err != nil || port == "80" {
		return "http://" + host
	}
	return "http://" + net.JoinHostPort(host, port)
}

// stop ends the parts in the reverse order. all stops the machines and the
// database too; else they are left to the next start.
func (s *server) stop(all bool) error {
	s.background.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	if s.places != nil {
		errs = append(errs, s.places.close(ctx, all))
	}
	s.stores.close()
	if s.pg != nil {
		if all {
			s.log.Info("stopping the private Postgres")
			errs = append(errs, s.pg.Stop(ctx))
		} else {
			s.pg.Close()
		}
	}
	if s.dir != nil {
		s.dir.close()
	}
	return errors.Join(errs...)
}

func newLogger(c config) (*logrus.Logger, error) {
	log := logrus.New()
	level, err := logrus.ParseLevel(c.logLevel)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInvalid, "reading --log-level: %w", err)
	}
	log.SetLevel(level)
	switch c.logFormat {
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	case "text":
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	default:
		return nil, fleet.Errorf(fleet.KindInvalid, "--log-format %q is neither text nor json", c.logFormat)
	}
	return log, nil
}

func migrateCommand() *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use: "migrate", Short: "Bring the database's schema up to date", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url == "" {
				return fleet.Errorf(fleet.KindInvalid, "name a database with --database postgres://…")
			}
			before, after, err := store.Migrate(cmd.Context(), url)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the schema was at version %d and is at version %d\n", before, after)
			return nil
		},
	}
	cmd.Flags().StringVar(&url, "database", "", "postgres:// URL of the database")
	return cmd
}
