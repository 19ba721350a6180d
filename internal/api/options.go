package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// Packages takes a package's content in, and lets it go again.
type Packages interface {
	// Import reads the source to its end, checks it and keeps its content. Errors
	// of the content are KindInvalid. The same content twice is kept once.
	Import(ctx context.Context, source PackageSource) (fleet.Package, error)
	// RemovePackage lets the content with that digest go; one that is not there is no error.
	RemovePackage(digest string) error
}

// PackageSource is what a package is made from: exactly one of Body, OCI and Deb.
type PackageSource struct {
	// Body is a program, a package directory's tar, or a container image's archive.
	Body io.Reader
	// Disk: Body is a disk to be imported as it is.
	Disk bool
	// FileName is what the user calls the file that Body is; may be empty.
	FileName string
	// OCI is a reference to an image in a registry.
	OCI string
	// Deb names packages of Debian's.
	Deb []string
	// Overlay is the tar of a package directory that is laid over the source; nil
	// where there is none. It is read to its end before Body's first byte.
	Overlay io.Reader
	// Name and Version win over what the package says of itself, where not empty.
	Name, Version string
	// Kernel is what images of it boot; empty is what the package asks for.
	Kernel fleet.KernelKind
	// Force has what the kernel can't run admitted with a warning.
	Force bool
	// Signature is of the source and its overlay, in base64; may be empty.
	Signature string
}

// Consoles reads the console logs of instances.
type Consoles interface {
	// Console returns the log from where options say; with Follow the reader
	// goes on until ctx ends or the instance is gone. The caller closes it.
	Console(ctx context.Context, instance fleet.Instance, options fleet.ConsoleOptions) (io.ReadCloser, error)
}

// Watcher tells of changes made by this process.
type Watcher interface {
	// Changed returns a channel that is closed at the next local change of that
	// operation after the call. It may also be closed without a change, and
	// changes by other processes may be missed. There is no way to call it off;
	// the API asks only about operations that exist and have not ended.
	Changed(operation string) <-chan struct{}
}

// Sealer encrypts a secret, so that the store never sees it.
type Sealer interface {
	// Seal returns an encrypted form that opens only under the same context;
	// the API's contexts are those of fleet.SecretContext.
	Seal(value, context string) (string, error)
}

// Planner knows how a rollout goes about it.
type Planner interface {
	// Normalise fills in the defaults of a spec for that many members. What can't
	// work is KindInvalid, naming the field.
	Normalise(spec fleet.RolloutSpec, members int) (fleet.RolloutSpec, error)
	// Plan returns the members with their places in rings and waves, in the order
	// in which they would be begun.
	Plan(spec fleet.RolloutSpec, members []fleet.RolloutMember) []fleet.RolloutMember
}

// Schedules reads the schedules of idle policies.
type Schedules interface {
	// Check refuses with KindInvalid what is no schedule; the field is cron, zone or do.
	Check(s fleet.Schedule) error
	// Next returns which comes first after a moment, and when; the zero time where none does.
	Next(schedules []fleet.Schedule, after time.Time) (fleet.Schedule, time.Time)
}

// Defaults of Options.
const (
	DefaultMaxPackageBytes = 4 << 30
	DefaultTimeout         = 30 * time.Second
	DefaultReread          = time.Second
)

// Options are what the API is made of. Those without a default are required.
type Options struct {
	Store    Store
	Packages Packages
	Images   Images
	// ImageContents reads what Images has.
	ImageContents ImageContents
	Kernels       Kernels
	Tracer        Tracer
	Consoles      Consoles
	Watch         Watcher
	Seal          Sealer
	Planner       Planner
	Schedules     Schedules
	// GatewayURL returns the address at which an installation's users reach it.
	GatewayURL func(name string) string
	Log        logrus.FieldLogger

	// Metrics is what /metrics shows and where the API's own metrics are
	// registered; the default is a registry of its own.
	Metrics *prometheus.Registry
	// Clock measures durations and ages; the default is time.Now.
	Clock func() time.Time
	// NewID makes identifiers; the default is fleet.NewID.
	NewID func() string
	// HashKey keys the hash that is stored beside an idempotency key, so that a
	// short secret in a body can't be guessed from it. It must be the same in
	// every process on one database; without it the hash is plain SHA-256.
	HashKey []byte
	// Providers are the kinds that a cluster may have; the default is kvm and sim.
	Providers []fleet.ProviderKind
	// MaxPackageBytes bounds an uploaded package; the default is DefaultMaxPackageBytes.
	MaxPackageBytes int64
	// Timeout bounds every request but uploads, logs and the wait of a long
	// poll; the default is DefaultTimeout.
	Timeout time.Duration
	// Reread is how often a long poll reads the operation again without having
	// been told of a change; the default is DefaultReread.
	Reread time.Duration
}

// New returns the handler of the whole API. It refuses every request that does
// not come by a loopback name, and writes from other sites' pages.
//
// A long poll and a followed log end when the request's context does: cancel
// the http.Server's BaseContext before Shutdown, which otherwise waits for them.
// It fails where an option is missing or Metrics holds metrics of the same names.
func New(o Options) (http.Handler, error) {
	a, err := newServer(o)
	if err != nil {
		return nil, err
	}
	return a.handler(a.routes())
}

func (o Options) withDefaults() (Options, error) {
	if o.Store == nil || o.Packages == nil || o.Images == nil || o.ImageContents == nil || o.Kernels == nil || o.Tracer == nil || o.Consoles == nil || o.Watch == nil || o.Seal == nil ||
		o.Planner == nil || o.Schedules == nil || o.GatewayURL == nil || o.Log == nil {
		return o, errors.New("making the API: Store, Packages, Images, ImageContents, Kernels, Tracer, Consoles, Watch, Seal, Planner, Schedules, GatewayURL and Log are all needed")
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.NewID == nil {
		o.NewID = fleet.NewID
	}
	if len(o.Providers) == 0 {
		o.Providers = []fleet.ProviderKind{fleet.ProviderKVM, fleet.ProviderSim}
	}
	if o.MaxPackageBytes <= 0 {
		o.MaxPackageBytes = DefaultMaxPackageBytes
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Reread <= 0 {
		o.Reread = DefaultReread
	}
	return o, nil
}
