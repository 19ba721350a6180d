package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/sirupsen/logrus"

	"dormouse/internal/api"
	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/deb"
	"dormouse/internal/imagebuilder/rawdisk"
	"dormouse/internal/imagebuilder/releases"
	"dormouse/internal/imagebuilder/source"
	"dormouse/internal/provider/kvm"
	"dormouse/internal/provider/kvm/hostnet"
	"dormouse/internal/provider/sim"
	"dormouse/internal/provider/sim/remote"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/cluster"
	"dormouse/internal/supervisor/installation"
)

// places are the providers of this process and what belongs to them.
type places struct {
	// store is nil until the database has been reached.
	store *store.Store
	// visits is nil where there is no host.
	visits   *visits
	builder  builder
	images   *imagebuilder.Builder
	evidence evidence
	// releases are kernels that were fetched.
	releases *releases.Store
	kvm      *kvm.Provider
	network  hostnet.Network
	// clones is the network of clones; nil where there is none of their own.
	clones hostnet.Network
	// sim is this process's own simulator, or stands in for one that is shared;
	// nil where there is neither.
	sim    simulator
	host   fleet.HostID
	kernel guestKernel
	log    logrus.FieldLogger
}

// simulator is what is needed of one, wherever it is.
type simulator interface {
	installation.Provider
	installation.Volumes
	installation.VolumeMover
	installation.Cloner
	cluster.Provider
	Console(ctx context.Context, ref fleet.InstanceRef, o fleet.ConsoleOptions) (io.ReadCloser, error)
	Configure(ctx context.Context, c fleet.Cluster) error
	Close() error
}

// ownSimulator is a simulator in this process.
type ownSimulator struct{ *sim.Provider }

// Configure implements simulator.
func (s ownSimulator) Configure(_ context.Context, c fleet.Cluster) error {
	return s.Provider.Configure(c)
}

// openSimulator opens this process's own simulator, or connects to the shared one.
func openSimulator(c config, d *dataDir, log logrus.FieldLogger, changed func(fleet.InstanceID)) (simulator, error) {
	if c.simulator != "" {
		client, err := remote.New(remote.Options{URL: c.simulator, OnChange: changed, Log: log})
		if err != nil {
			return nil, err // not client: a nil one would be a simulator
		}
		return client, nil
	}
	own, err := sim.New(sim.Options{Dir: d.join(simDir), OnChange: changed, Log: log})
	if err != nil {
		return nil, err
	}
	return ownSimulator{own}, nil
}

// openPlaces opens the image builder and the providers, and adopts the
// machines that run. changed is told of every instance that something happened to,
// spoke of those whose console has more.
func openPlaces(ctx context.Context, c config, d *dataDir, log logrus.FieldLogger, changed, spoke func(fleet.InstanceID)) (*places, error) {
	p := &places{host: d.host, log: log}
	var err error
	if p.releases, err = releases.Open(releases.Options{Dir: filepath.Join(c.imageDir, "releases")}); err != nil {
		return p, err
	}
	p.kernel = findKernel(ctx, d, c, log)
	var trust imagebuilder.Trust
	if c.trustedKeys != "" {
		if trust, err = imagebuilder.ReadTrust(c.trustedKeys); err != nil {
			return p, err
		}
	}
	if p.images, err = imagebuilder.New(imagebuilder.Options{Dir: c.imageDir, Kernels: []imagebuilder.Kernel{p.kernel.kernel, p.nanos(c), rawdisk.New()}, Log: log, Trust: trust}); err != nil {
		return p, err
	}
	p.builder = builder{b: p.images, debs: func(names []string) imagebuilder.Fetch {
		return func(ctx context.Context, dir string) (source.Laid, error) {
			return deb.Fetch(ctx, dir, names, deb.Options{CacheDir: filepath.Join(d.path, "debs")})
		}
	}}
	if c.has(roleHost) || c.simulator != "" {
		if p.sim, err = openSimulator(c, d, log, changed); err != nil {
			return p, err
		}
	}
	if !c.has(roleHost) {
		return p, nil
	}
	if err = p.openNetworks(ctx, c, d, log); err != nil {
		return p, err
	}
	seal, err := openMemoryKey(c.memoryKeyFile)
	if err != nil {
		return p, err
	}
	p.kvm, err = kvm.New(ctx, kvm.Options{
		DataDir: d.join("host"), HostID: d.host, Images: p.images, Network: p.network, CloneNetwork: p.clones, Log: log, OnChange: changed, OnConsole: spoke,
		Accel: c.accel, QEMU: c.qemu, Resume: true, OnWake: wakeLogger(log),
		PackAfter: c.packAfter, WarmBytes: c.warmMiB << 20, SavedBytes: c.savedMiB << 20, Seal: seal,
	})
	return p, err
}

// openNetworks chooses between a bridge and forwarded loopback ports, by trying.
// On a bridge, clones have one of their own, in another namespace.
func (p *places) openNetworks(ctx context.Context, c config, d *dataDir, log logrus.FieldLogger) (err error) {
	mode, detail := c.network, "as asked"
	if mode == "auto" {
		mode, detail = hostnet.Detect(ctx)
	}
	log.WithFields(logrus.Fields{"network": mode, "detail": detail}).Info("the guests' network")
	switch mode {
	case hostnet.ModeBridge:
		name := hostnet.NameFor(d.path)
		if p.network, err = hostnet.NewBridge(hostnet.Options{Name: name, Pool: c.addressPool, Log: log}); err != nil {
			return err
		}
		p.clones, err = hostnet.NewBridge(hostnet.Options{Name: name + "-clones", Pool: clonePool(c.addressPool), Log: log})
		return err
	case hostnet.ModeUser:
		p.network, err = hostnet.NewUser(hostnet.Options{StateDir: d.path, Log: log})
		return err
	}
	return fleet.Errorf(fleet.KindInvalid, "--network %q is neither auto, bridge nor user", c.network)
}

// clonePool is a pool that has no address in common with the instances'. Nothing
// outside of the clones' namespace ever sees it.
func clonePool(pool string) string {
	own, err := netip.ParsePrefix(pool)
	for _, candidate := range []string{"10.78.0.0/20", "10.79.0.0/20"} {
		if err == nil && !own.Overlaps(netip.MustParsePrefix(candidate)) {
			return candidate
		}
	}
	return "192.168.240.0/20" // a pool that has both lies in 10.0.0.0/8
}

// configure tells the simulator of the clusters that it is to serve.
func (p *places) configure(ctx context.Context) error {
	if p.sim == nil {
		return nil
	}
	clusters, err := p.store.ListClusters(ctx, fleet.Page{Limit: 10_000})
	if err != nil {
		return err
	}
	for _, c := range clusters {
		if c.Provider != fleet.ProviderSim {
			continue
		}
		if err := p.sim.Configure(ctx, c.Cluster); err != nil {
			p.log.WithError(err).WithField("cluster", c.Name).Error("configuring the simulator")
		}
	}
	return nil
}

// close leaves the machines running, or stops them all.
func (p *places) close(ctx context.Context, stop bool) error {
	var errs []error
	if p.kvm != nil {
		if stop {
			p.log.Info("stopping the virtual machines")
			errs = append(errs, p.kvm.Shutdown(ctx))
		} else {
			errs = append(errs, p.kvm.Close())
		}
	}
	for _, network := range []hostnet.Network{p.network, p.clones} {
		if network == nil {
			continue
		}
		if stop {
			errs = append(errs, network.Remove(ctx))
		}
		errs = append(errs, network.Close())
	}
	if p.sim != nil {
		errs = append(errs, p.sim.Close())
	}
	if p.images != nil {
		p.images.Close()
	}
	return errors.Join(errs...)
}

// installation and cluster give the workflows what they need of each provider.
func (p *places) installation() map[fleet.ProviderKind]installation.Place {
	places := map[fleet.ProviderKind]installation.Place{}
	if p.kvm != nil {
		places[fleet.ProviderKVM] = installation.Place{Provider: quietHost{p.kvm, p.visits}, Images: p.images, Local: true}
	}
	if p.sim != nil {
		places[fleet.ProviderSim] = installation.Place{Provider: p.sim, Images: noImages{}}
	}
	return places
}

func (p *places) cluster() map[fleet.ProviderKind]cluster.Provider {
	providers := map[fleet.ProviderKind]cluster.Provider{}
	if p.kvm != nil {
		providers[fleet.ProviderKVM] = hostCheck{p}
	}
	if p.sim != nil {
		providers[fleet.ProviderSim] = p.sim
	}
	return providers
}

// hostCheck adds to the provider's own check what only the composition knows.
type hostCheck struct{ p *places }

// Check implements cluster.Provider.
func (h hostCheck) Check(ctx context.Context, c fleet.Cluster) (fleet.CheckReport, error) {
	report, err := h.p.kvm.Check(ctx, c)
	if err != nil {
		return report, err
	}
	report.Items = append(report.Items, h.p.kernelItem())
	clusters, err := h.p.store.ListClusters(ctx, fleet.Page{Limit: 10_000})
	if err != nil {
		return report, err
	}
	item := fleet.CheckItem{Name: "host", OK: true, Detail: "this machine belongs to no other cluster"}
	for _, other := range clusters {
		for _, host := range other.Hosts {
			if other.ID != c.ID && host.ID == h.p.host {
				item.OK, item.Detail = false, fmt.Sprintf("this machine belongs to cluster %s already", other.Name)
				item.Mend = "cloudctl cluster delete " + other.Name
			}
		}
	}
	report.Items = append(report.Items, item)
	return report, nil
}

func (p *places) kernelItem() fleet.CheckItem {
	if p.kernel.err != nil {
		return fleet.CheckItem{Name: "guest kernel", Detail: p.kernel.err.Error(),
			Mend: "scripts/fetch-kernel.sh DIR; provisioner server --kernel-packages DIR"}
	}
	return fleet.CheckItem{Name: "guest kernel", OK: true, Detail: p.kernel.release}
}

// Console implements api.Consoles.
func (p *places) Console(ctx context.Context, i fleet.Instance, o fleet.ConsoleOptions) (io.ReadCloser, error) {
	ref := fleet.InstanceRef{ID: i.ID, ClusterID: i.ClusterID, HostID: i.HostID, ProviderRef: i.ProviderRef}
	switch {
	case p.kvm != nil && i.HostID == p.host:
		return p.kvm.Console(ctx, ref, o)
	case p.sim != nil:
		return p.sim.Console(ctx, ref, o)
	}
	return nil, fleet.Errorf(fleet.KindUnavailable, "this process has no host: ask one with --roles host")
}

// dial reaches an instance of this host.
func (p *places) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return p.network.DialContext(ctx, network, address)
}

// builder is the image builder as the API sees it.
type builder struct {
	b *imagebuilder.Builder
	// debs lays Debian's packages out.
	debs func(names []string) imagebuilder.Fetch
}

// Import implements api.Packages.
func (b builder) Import(ctx context.Context, s api.PackageSource) (fleet.Package, error) {
	o := imagebuilder.ImportOptions{
		Name: s.Name, Version: s.Version, Kernel: s.Kernel, Force: s.Force, Overlay: s.Overlay, FileName: s.FileName, Signature: s.Signature,
	}
	switch {
	case s.OCI != "":
		return b.b.ImportOCI(ctx, s.OCI, o)
	case s.Disk:
		return b.b.ImportDisk(ctx, s.Body, o)
	case len(s.Deb) > 0:
		return b.b.ImportFetched(ctx, b.debs(s.Deb), o)
	}
	return b.b.Import(ctx, s.Body, o)
}

// RemovePackage implements api.Packages.
func (b builder) RemovePackage(digest string) error {
	return b.b.RemovePackage(context.Background(), digest)
}

// noImages names images for the simulator, which has no use for their files.
type noImages struct{}

// Ensure implements installation.Images.
func (noImages) Ensure(_ context.Context, p fleet.Package) (fleet.ImageID, error) {
	sum := sha256.Sum256([]byte("sim:" + p.Digest))
	return fleet.ImageID(hex.EncodeToString(sum[:])), nil
}
