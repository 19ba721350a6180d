package steps

import (
	"context"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// Health is what a cluster's provider said of its instances, by installation, and
// how long ago the list was begun. Installations that it does not list are left as they were.
type Health struct {
	Of  map[fleet.InstallationID]fleet.HealthState
	Age time.Duration
}

// Observer lists the health of clusters in the background. A list of ten thousand
// instances may take a provider a minute, and a rollout that waited for it would leave
// its slots empty meanwhile.
type Observer struct {
	list  func(context.Context, fleet.ClusterID) (map[fleet.InstallationID]fleet.HealthState, error)
	start func(func(context.Context))

	mu       sync.Mutex
	clusters map[fleet.ClusterID]*observation
}

type observation struct {
	begun   time.Time
	health  map[fleet.InstallationID]fleet.HealthState
	err     error
	listing bool
	askedAt time.Time
}

// NewObserver makes one. list asks a provider, and may return a part with its error;
// start runs a function in another goroutine, with a context that ends when the process stops.
func NewObserver(list func(context.Context, fleet.ClusterID) (map[fleet.InstallationID]fleet.HealthState, error), start func(func(context.Context))) *Observer {
	return &Observer{list: list, start: start, clusters: map[fleet.ClusterID]*observation{}}
}

// Health returns what the last list said, at once, and begins the next one. It is
// empty where there was none yet; the error is that of the last list.
func (o *Observer) Health(_ context.Context, cluster fleet.ClusterID) (Health, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.clusters[cluster]
	if c == nil {
		c = &observation{}
		o.clusters[cluster] = c
	}
	if !c.listing && time.Since(c.askedAt) >= healthEvery/2 {
		c.listing, c.askedAt = true, time.Now()
		o.start(func(ctx context.Context) { o.observe(ctx, cluster, c) })
	}
	return Health{Of: c.health, Age: time.Since(c.begun)}, c.err
}

func (o *Observer) observe(ctx context.Context, cluster fleet.ClusterID, c *observation) {
	begun := time.Now()
	health, err := o.list(ctx, cluster)
	o.mu.Lock()
	defer o.mu.Unlock()
	c.listing, c.err = false, err
	if err == nil || len(health) > 0 {
		c.health, c.begun = health, begun
	}
}
