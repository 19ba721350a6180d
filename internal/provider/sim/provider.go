package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// Options are how a Provider is made. The zero value is a simulator in memory.
type Options struct {
	// Dir is where the state is kept, with a directory per cluster; "" keeps
	// nothing, for tests.
	Dir string
	// OnChange is told of every change that no call's answer tells of; it may
	// be nil and must not block.
	OnChange func(fleet.InstanceID)
	// Clock is the time; nil is WallClock.
	Clock Clock
	// Log is told of repairs; nil is silence.
	Log logrus.FieldLogger
	// Sync makes every change outlive a power failure, at the price of an fsync for each.
	Sync bool
	// LedgerSize is how many calls the ledger keeps; 0 is 4096, negative none. All are counted.
	LedgerSize int
	// OnCall is told of every call as it ends, on its own goroutine and before it
	// answers, also where no ledger is kept; nil is nobody. Seq is 0.
	OnCall func(Entry)
	// PageSize is how many instances a page of List has; 0 is 500.
	PageSize int
	// CompactBytes is how large a log must be before it is compacted; 0 is
	// 8 MiB. It must also be larger than the snapshot.
	CompactBytes int64
	// Serve gives an instance that has come on real addresses in place of those
	// where nobody answers; nil leaves it at those. It must be quick and must not call the
	// provider. stop, which may be nil, is called when the instance is on no more, and by Close.
	Serve func(id fleet.InstanceID, ports []fleet.Port) (endpoints []fleet.Endpoint, stop func(), err error)
}

const (
	defaultLedgerSize   = 4096
	defaultPageSize     = 500
	defaultCompactBytes = 8 << 20
)

// Provider simulates machines in all clusters of its kind. All methods may be
// called concurrently.
type Provider struct {
	options Options
	clock   Clock
	log     logrus.FieldLogger
	ledger  ledger
	lock    *os.File

	mu       sync.RWMutex
	closed   bool
	clusters map[fleet.ClusterID]*cluster
}

// New opens the simulator. It refuses a directory that another one has open
// (KindConflict). Clusters become known through Configure.
func New(options Options) (*Provider, error) {
	p := &Provider{options: options, clock: options.Clock, log: options.Log, clusters: map[fleet.ClusterID]*cluster{}}
	if p.clock == nil {
		p.clock = WallClock{}
	}
	if p.log == nil {
		silent := logrus.New()
		silent.SetLevel(logrus.PanicLevel)
		p.log = silent
	}
	if p.options.OnChange == nil {
		p.options.OnChange = func(fleet.InstanceID) {}
	}
	if p.options.PageSize <= 0 {
		p.options.PageSize = defaultPageSize
	}
	if p.options.CompactBytes <= 0 {
		p.options.CompactBytes = defaultCompactBytes
	}
	if p.ledger.size = options.LedgerSize; p.ledger.size == 0 {
		p.ledger.size = defaultLedgerSize
	}
	p.ledger.since, p.ledger.counts = stamp(p.clock), map[count]uint64{}
	if options.Dir != "" {
		lock, err := lockDir(options.Dir)
		if err != nil {
			return nil, err
		}
		p.lock = lock
	}
	return p, nil
}

// lockDir takes the directory for this process until the file is closed. The
// kernel gives the lock back when the process dies, however it does.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the simulator's directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the simulator's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		kind, cause := fleet.KindUnavailable, err
		if errors.Is(err, unix.EWOULDBLOCK) {
			kind, cause = fleet.KindConflict, errors.New("another process has it open: stop that one, or give this one a directory of its own")
		}
		return nil, errors.Join(fleet.Errorf(kind, "locking the simulator's directory %s: %w", dir, cause), f.Close())
	}
	return f, nil
}

// Configure makes a cluster known with its settings, or gives a known one new
// settings; its state is read where this is the first time. A cluster that is deleted is
// forgotten instead, with its files. Errors: KindInvalid for bad settings (the old ones
// stay in force), KindPermanent for damaged state.
func (p *Provider) Configure(fc fleet.Cluster) error {
	if fc.ID == "" || fleet.ClusterID(filepath.Base(string(fc.ID))) != fc.ID || fc.ID == "." || fc.ID == ".." {
		return fleet.InvalidField("id", "configuring a simulated cluster: %q is no cluster ID", fc.ID)
	}
	if fc.State == fleet.ClusterDeleted {
		return p.forget(fc.ID)
	}
	rec := clusterRecord{Name: fc.Name, Settings: fc.Settings}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed()
	}
	if c := p.clusters[fc.ID]; c != nil {
		if err := c.reconfigure(rec); err != nil {
			return fmt.Errorf("configuring cluster %s: %w", fc.ID, err)
		}
		return nil
	}
	if _, err := ParseSettings(fc.Settings); err != nil {
		return fmt.Errorf("configuring cluster %s: %w", fc.ID, err) // before a directory is made for it
	}
	c, err := openCluster(p, fc.ID, &rec)
	if err != nil {
		return fmt.Errorf("configuring cluster %s: %w", fc.ID, err)
	}
	p.clusters[fc.ID] = c
	return nil
}

// ConfigureKept makes the clusters known that Options.Dir has, each with the
// settings that it had last. Its error joins those of the clusters that could
// not be read; the others are known all the same.
func (p *Provider) ConfigureKept() error {
	if p.options.Dir == "" {
		return nil
	}
	entries, err := os.ReadDir(p.options.Dir)
	if err != nil {
		return fmt.Errorf("looking for the simulator's clusters: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed()
	}
	var errs []error
	for _, e := range entries {
		id := fleet.ClusterID(e.Name())
		if !e.IsDir() || p.clusters[id] != nil {
			continue
		}
		switch c, err := openCluster(p, id, nil); {
		case err != nil:
			errs = append(errs, fmt.Errorf("reading cluster %s: %w", id, err))
		case c != nil:
			p.clusters[id] = c
		}
	}
	return errors.Join(errs...)
}

// forget drops a cluster and its files, also those that an earlier process left.
func (p *Provider) forget(id fleet.ClusterID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed()
	}
	var err error
	if c := p.clusters[id]; c != nil {
		delete(p.clusters, id)
		err = c.close()
	}
	if p.options.Dir != "" {
		err = errors.Join(err, os.RemoveAll(p.clusterDir(id)))
	}
	if err != nil {
		return fmt.Errorf("forgetting cluster %s: %w", id, err)
	}
	return nil
}

func (p *Provider) clusterDir(id fleet.ClusterID) string {
	return filepath.Join(p.options.Dir, string(id))
}

// Check configures the cluster and reports its hosts. Settings that are wrong
// are items that did not pass, each with its mend.
func (p *Provider) Check(ctx context.Context, fc fleet.Cluster) (fleet.CheckReport, error) {
	if err := ctx.Err(); err != nil {
		return fleet.CheckReport{}, fmt.Errorf("checking cluster %s: %w", fc.ID, err)
	}
	report, err := p.check(fc)
	p.record(Entry{At: p.clock.Now(), Cluster: fc.ID, Call: CallCheck, Object: string(fc.ID), Kind: fleet.KindOf(err)})
	return report, err
}

func (p *Provider) check(fc fleet.Cluster) (fleet.CheckReport, error) {
	var report fleet.CheckReport
	settings, err := ParseSettings(fc.Settings)
	if err != nil {
		for _, e := range unjoin(err) {
			item := fleet.CheckItem{Name: "settings", Detail: e.Error(), Mend: "leave it out, or give it a valid value"}
			var typed *fleet.Error
			if errors.As(e, &typed) {
				item.Name = typed.Field
			}
			report.Items = append(report.Items, item)
		}
		return report, nil
	}
	report.Items = append(report.Items, fleet.CheckItem{Name: "settings", OK: true, Detail: fmt.Sprintf("%d given", len(fc.Settings))})
	state := fleet.CheckItem{Name: "state", OK: true, Detail: "in memory only"}
	if p.options.Dir != "" {
		state.Detail = "kept in " + p.clusterDir(fc.ID)
	}
	err = p.Configure(fc)
	switch kind := fleet.KindOf(err); {
	case errors.Is(err, errProviderClosed):
		return fleet.CheckReport{}, err
	case kind != "":
		state.OK, state.Detail = false, err.Error()
		state.Mend = "make sure that the directory can be written and has free space: df -h " + p.options.Dir
		report.Items = append(report.Items, state)
		return report, nil
	}
	report.Items = append(report.Items, state)
	for n := range settings.Hosts {
		report.Hosts = append(report.Hosts, fleet.Host{
			ID: HostID(fc.ID, n), ClusterID: fc.ID, Name: fmt.Sprintf("sim-%d", n+1), State: fleet.HostUp,
			MemoryMiB: settings.MemoryMiB, DiskMiB: settings.DiskMiB,
		})
	}
	return report, nil
}

// HostID is the ID of a cluster's nth host, counted from 0.
func HostID(cluster fleet.ClusterID, n int) fleet.HostID {
	return fleet.HostID(fleet.DeriveID("sim-host", string(cluster), fmt.Sprint(n)))
}

// unjoin returns the errors that errors.Join joined.
func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// Close stops all timers and gives the directory back. Nothing is lost by not
// calling it. Calls after it answer KindUnavailable.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(p.clusters)) {
		errs = append(errs, p.clusters[id].close())
	}
	if p.lock != nil {
		// Closing alone would leave the lock to a child process that has been
		// forked and has not come to its exec yet.
		errs = append(errs, unix.Flock(int(p.lock.Fd()), unix.LOCK_UN), p.lock.Close())
	}
	return errors.Join(errs...)
}

var errProviderClosed = errors.New("the simulator is closed")

func errClosed() error { return fleet.Errorf(fleet.KindUnavailable, "%w", errProviderClosed) }
