package installation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// SweepStore is what the sweep needs of the database.
type SweepStore interface {
	EndingStore
	// ExpectedInstances returns all instances of a cluster that are not deleted.
	ExpectedInstances(ctx context.Context, id fleet.ClusterID) ([]fleet.ExpectedInstance, error)
	// ExpectedVolumes returns all volumes of a cluster that are not deleted.
	ExpectedVolumes(ctx context.Context, id fleet.ClusterID) ([]fleet.ExpectedVolume, error)
	// DeletedVolumes returns those of the volumes whose row says that they were deleted.
	DeletedVolumes(ctx context.Context, ids []fleet.VolumeID) (map[fleet.VolumeID]bool, error)
	// NextEpoch returns an epoch above all that were given out.
	NextEpoch(ctx context.Context) (fleet.Epoch, error)
	ListClusters(ctx context.Context, page fleet.Page) ([]fleet.ClusterView, error)
}

// SweeperOptions configure a Sweeper. Zero values take the defaults named here.
type SweeperOptions struct {
	Store   SweepStore
	Endings *Endings
	Places  map[fleet.ProviderKind]Place
	// Hosts are the hosts of this process. Of a place whose steps run on the host
	// (Place.Local), only instances on these are missed when they are not listed.
	Hosts []fleet.HostID
	Clock engine.Clock
	Log   logrus.FieldLogger
	// Interval is the time between two passes (2 min, with jitter); First the
	// time before the first one (1 min).
	Interval, First time.Duration
	// Grace is how old a machine without a live row, or a volume whose row is
	// deleted, must be to be deleted (10 min).
	Grace time.Duration
	// VolumeGrace is that for a volume which no row knows of, not even as deleted
	// (24 h). Rows are never removed, so such a volume means that the database
	// has forgotten something: it is data, and somebody may want to look.
	VolumeGrace time.Duration
	// Settle is how long an installation's row must have rested for its
	// machines to be judged (30 s).
	Settle time.Duration
	// Timeout bounds one pass over one cluster (5 min).
	Timeout time.Duration
}

// Sweeper compares what the providers have with what the store expects, and
// repairs. One process at a time may run it: the caller holds the lock.
type Sweeper struct {
	o SweeperOptions

	mu     sync.Mutex
	memory map[fleet.ClusterID]*memory
}

// memory is what a pass leaves for the next one over the same cluster.
type memory struct {
	mu sync.Mutex
	// doubted are the findings that the brake held back, since when.
	doubted map[string]time.Time
	// said are the drifts that were logged already.
	said map[string]bool
	// firstSeen is when a machine or volume without an age was first seen astray.
	firstSeen map[string]time.Time
}

// NewSweeper fills in the defaults. Start it with Run, or make single passes with Sweep.
func NewSweeper(o SweeperOptions) *Sweeper {
	orDefault(&o.Interval, 2*time.Minute)
	orDefault(&o.First, time.Minute)
	orDefault(&o.Grace, 10*time.Minute)
	orDefault(&o.VolumeGrace, 24*time.Hour)
	orDefault(&o.Settle, 30*time.Second)
	orDefault(&o.Timeout, 5*time.Minute)
	return &Sweeper{o: o, memory: map[fleet.ClusterID]*memory{}}
}

// Sweep makes one pass over a cluster. It fails where the provider or the store
// could not be asked; what could not be repaired is said in the report, and a
// later pass tries again. Where nothing is amiss it costs one statement.
func (s *Sweeper) Sweep(ctx context.Context, cluster fleet.Cluster) (r Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	log := s.o.Log.WithFields(logrus.Fields{"cluster": cluster.Name, "sweep": true})
	r = Report{ClusterID: cluster.ID, ClusterName: cluster.Name, At: s.o.Clock.Now().UTC()}
	defer contain(&err, log)
	place, ok := s.o.Places[cluster.Provider]
	if !ok {
		return r, fleet.Errorf(fleet.KindUnavailable, "sweeping cluster %s: this process has no provider %q", cluster.Name, cluster.Provider)
	}
	m := s.remember(cluster.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &pass{o: &s.o, cluster: cluster, place: place, memory: m, now: s.o.Clock.Now(), r: &r, log: log, listed: map[fleet.InstanceID]fleet.InstanceStatus{}}
	// The provider first: whatever exists outside had its row before, so that
	// the rows read after it tell of all that was listed.
	if err := p.list(ctx); err != nil {
		return r, fmt.Errorf("sweeping cluster %s: %w", cluster.Name, err)
	}
	if p.rows, err = s.o.Store.ExpectedInstances(ctx, cluster.ID); err != nil {
		return r, fmt.Errorf("sweeping cluster %s: %w", cluster.Name, err)
	}
	p.took = s.o.Clock.Now().Sub(p.now)
	p.compare()
	if err := p.compareVolumes(ctx); err != nil {
		return r, fmt.Errorf("sweeping cluster %s: %w", cluster.Name, err)
	}
	p.brake()
	p.repair(ctx)
	p.say()
	return r, nil
}

func (s *Sweeper) remember(id fleet.ClusterID) *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory[id] == nil {
		s.memory[id] = &memory{doubted: map[string]time.Time{}, said: map[string]bool{}, firstSeen: map[string]time.Time{}}
	}
	return s.memory[id]
}

// pass is one pass under way.
type pass struct {
	o       *SweeperOptions
	cluster fleet.Cluster
	place   Place
	memory  *memory
	now     time.Time
	// took is how long it took until the rows were read.
	took    time.Duration
	r       *Report
	log     logrus.FieldLogger
	listed  map[fleet.InstanceID]fleet.InstanceStatus
	volumes []fleet.VolumeStatus
	rows    []fleet.ExpectedInstance
	// epoch is above all that were given out when the rows had been read; 0 before it is needed.
	epoch fleet.Epoch
}

// errNothingListed: not even one page came.
var errNothingListed = errors.New("the provider does not list what it has")

// list pages through all machines. An error after the first page leaves what is
// there, for what can be concluded from presence.
func (p *pass) list(ctx context.Context) error {
	after := ""
	for pages := 0; ; pages++ {
		page, next, err := p.place.Provider.List(ctx, p.cluster.ID, after)
		if err == nil && next != "" && next == after {
			err = fmt.Errorf("its page after %q leads to itself", after)
		}
		if err != nil {
			p.r.Partial = fmt.Sprintf("page %d: %v", pages+1, err)
			if pages == 0 {
				return fmt.Errorf("%w: %w", errNothingListed, err)
			}
			break
		}
		for _, st := range page {
			p.listed[st.ID] = st
		}
		if next == "" {
			break
		}
		after = next
	}
	p.r.Listed = len(p.listed)
	disks, ok := p.place.Provider.(Volumes)
	if !ok {
		return nil
	}
	volumes, err := disks.ListVolumes(ctx, p.cluster.ID)
	if err != nil {
		// Nothing is concluded from a volume's absence anyway.
		p.log.WithError(err).Warn("listing volumes; strays among them are left to the next pass")
		return nil
	}
	p.volumes, p.r.ListedVolumes = volumes, len(volumes)
	return nil
}

// nextEpoch is taken once in a pass that repairs.
func (p *pass) nextEpoch(ctx context.Context) (fleet.Epoch, error) {
	if p.epoch == 0 {
		e, err := p.o.Store.NextEpoch(ctx)
		if err != nil {
			return 0, err
		}
		p.epoch = e
	}
	return p.epoch, nil
}
