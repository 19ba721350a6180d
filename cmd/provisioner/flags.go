package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"dormouse/internal/api"
	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim/remote"
	"dormouse/internal/sealed"
)

// The roles that a process may have.
const (
	roleAPI        = "api"
	roleSupervisor = "supervisor"
	roleGateway    = "gateway"
	roleHost       = "host"
)

// config is what the command line and the environment say.
type config struct {
	dev            bool
	database       string
	dataDir        string
	secretKeyFile  string
	listen         string
	gatewayListen  []string
	gatewayDomain  string
	trustedProxies []string
	tls            tlsConfig
	wakesPerHour   int
	sourceWakes    int
	packAfter      time.Duration
	warmMiB        int64
	savedMiB       int64
	memoryKeyFile  string
	gatewayPorts   portRange
	roles          []string
	accel          string
	qemu           string
	network        string
	addressPool    string
	kernelPackages string
	kernelImage    string
	trustedKeys    string
	simulator      string
	initPath       string
	logLevel       string
	logFormat      string
	databaseConns  int
	slots          int
	healthDeadline time.Duration
	imageGrace     time.Duration
	imageDir       string
	nanosDir       string
	efiStub        string
}

func (c *config) bind(flags *pflag.FlagSet) {
	flags.BoolVar(&c.dev, "dev", false, "run a private Postgres in the data directory; Ctrl-C stops all that was started")
	flags.StringVar(&c.database, "database", "", "postgres:// URL of the database; needed without --dev")
	c.bindData(flags)
	c.bindKey(flags)
	flags.StringVar(&c.listen, "listen", "127.0.0.1:8075", "address of the API; loopback only")
	flags.StringSliceVar(&c.gatewayListen, "gateway-listen", []string{"127.0.0.1:8065", "[::1]:8065"}, "addresses of the gateway, separated by commas; the first one is named in URLs")
	c.tls.bind(flags)
	flags.IntVar(&c.wakesPerHour, "gateway-wakes-per-hour", 120, "how often visits may wake one installation in an hour whose rules say nothing; below 0 without bound")
	flags.IntVar(&c.sourceWakes, "gateway-source-wakes-per-hour", 1200, "how many wakes one network of clients (/24, /56 of IPv6) may cause in an hour; below 0 without bound")
	flags.DurationVar(&c.packAfter, "pack-after", 10*time.Minute, "how long an installation must have slept for its saved memory to be compressed; 0 is never")
	flags.Int64Var(&c.warmMiB, "warm-mib", 0, "disk in MiB that saved memory may take which is not compressed; beyond it the longest asleep are compressed (0: no bound)")
	flags.Int64Var(&c.savedMiB, "saved-mib", 0, "disk in MiB that saved memory may take in all; beyond it the longest asleep keep their disks only, and wake by a boot (0: no bound)")
	flags.StringVar(&c.memoryKeyFile, "memory-key-file", "", "a file with the key by which saved memory is encrypted, one key for each installation made from it; made where there is none, best on another disk. Without it, saved memory is in clear, for its machine's user to read")
	flags.StringSliceVar(&c.trustedProxies, "trusted-proxies", nil, "CIDRs of load balancers in front of the gateway, which tell by the PROXY protocol who the client is")
	flags.StringVar(&c.gatewayDomain, "gateway-domain", "localhost", "domain under which installations are reached by name")
	c.gatewayPorts = portRange{30000, 31999}
	flags.Var(&c.gatewayPorts, "gateway-ports", "TCP ports of the gateway for ports of installations that do not speak HTTP, as FIRST-LAST, or none; the same for all provisioners on one database")
	flags.StringSliceVar(&c.roles, "roles", []string{roleAPI, roleSupervisor, roleGateway, roleHost}, "what this process does")
	flags.StringVar(&c.initPath, "init", "", "the init of linux guests (default: `init` beside this program)")
	flags.StringVar(&c.logLevel, "log-level", "info", "debug, info, warning or error")
	flags.StringVar(&c.logFormat, "log-format", "text", "text or json")
	flags.DurationVar(&c.healthDeadline, "health-deadline", 2*time.Minute, "how long a started instance has to become healthy")
	flags.StringVar(&c.efiStub, "efi-stub", "", "systemd's linuxx64.efi.stub, as scripts/fetch-efi-stub.sh leaves it, for exported disks (default: efi/linuxx64.efi.stub beside the directory of --kernel-packages)")
	flags.StringVar(&c.trustedKeys, "trusted-keys", "", "file of public keys (Ed25519, PEM): packages are made only of sources that one of them has signed, and of Debian's, which apt checks")
	flags.StringVar(&c.nanosDir, "nanos-dir", os.Getenv("NANOS_DIR"), "directory of a Nanos release (boot.img, kernel.img, klibs/), also in NANOS_DIR; without it, the one that cloudctl kernel add fetched last")
	flags.StringVar(&c.imageDir, "image-dir", "", "directory of packages and images, which provisioners on one machine may share (default: the data directory)")
	flags.DurationVar(&c.imageGrace, "image-grace", 7*24*time.Hour, "how long an image that nothing is made of is kept after its last use")
	flags.IntVar(&c.slots, "slots", 32, "steps of operations that this process runs at once; at most three quarters of them of bulk work (rollouts)")
	flags.StringVar(&c.simulator, "simulator", "", "URL of a simulator to share with others (see provisioner simulator): http://127.0.0.1:PORT or unix:PATH; without it, this process has one to itself")
	flags.IntVar(&c.databaseConns, "database-conns", 32, "connections to the database at most, in all; the API, the engine and the rest of the supervision each have their share, which the log names at the start")
}

// bindData binds what the doctor needs too.
func (c *config) bindData(flags *pflag.FlagSet) {
	flags.StringVar(&c.dataDir, "data-dir", defaultDataDir(), "directory for everything that is kept on this machine")
	flags.StringVar(&c.accel, "accel", "auto", "auto (probes by booting a guest), kvm or tcg")
	flags.StringVar(&c.qemu, "qemu", "", "the QEMU system emulator (default: qemu-system-x86_64 from the PATH)")
	flags.StringVar(&c.network, "network", "auto", "auto (probes), bridge or user")
	flags.StringVar(&c.addressPool, "address-pool", "10.77.0.0/20", "CIDR of the guests' network; it lies in a network namespace of its own")
	flags.StringVar(&c.kernelImage, "kernel-image", "", "a kernel for guests with all built in, as make kernel leaves it, instead of the distribution's")
	flags.StringVar(&c.kernelPackages, "kernel-packages", "", "directory with the distribution's kernel package (*.deb), as scripts/fetch-kernel.sh leaves it")
}

func (c *config) bindKey(flags *pflag.FlagSet) {
	flags.StringVar(&c.secretKeyFile, "secret-key-file", "", "the key that seals tenants' secrets, the same for all provisioners on one database; former keys lie beside it (default: `secret.key` in the data directory)")
}

// keyFile is where the key for secrets is, once the flags are checked.
func (c *config) keyFile() string {
	if c.secretKeyFile != "" {
		return c.secretKeyFile
	}
	return filepath.Join(c.dataDir, sealed.FileName)
}

// defaultDataDir is /var/lib/dormouse for root, $XDG_DATA_HOME/dormouse else.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/dormouse"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "dormouse")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "share", "dormouse")
}

func (c *config) has(role string) bool { return slices.Contains(c.roles, role) }

func (c *config) check() error {
	for _, r := range c.roles {
		if !slices.Contains([]string{roleAPI, roleSupervisor, roleGateway, roleHost}, r) {
			return fleet.Errorf(fleet.KindInvalid, "unknown role %q: the roles are api, supervisor, gateway and host", r)
		}
	}
	switch {
	case c.healthDeadline < time.Second:
		return fleet.Errorf(fleet.KindInvalid, "--health-deadline %s is too short: an instance boots first", c.healthDeadline)
	case c.imageGrace < time.Minute:
		return fleet.Errorf(fleet.KindInvalid, "--image-grace %s is too short: give at least 1m, so that an image is not removed while an instance is made of it", c.imageGrace)
	case c.slots < 1 || c.slots > 10_000:
		return fleet.Errorf(fleet.KindInvalid, "--slots %d: give a number from 1 to 10000", c.slots)
	case len(c.roles) == 0:
		return fleet.Errorf(fleet.KindInvalid, "--roles is empty: name at least one of api, supervisor, gateway and host")
	case c.dev && c.database != "":
		return fleet.Errorf(fleet.KindInvalid, "--dev brings a database of its own: leave out --database, or leave out --dev")
	case !c.dev && c.database == "":
		return fleet.Errorf(fleet.KindInvalid, "name a database with --database postgres://…, or use --dev for a private one")
	case c.has(roleHost) && !c.has(roleSupervisor):
		return fleet.Errorf(fleet.KindInvalid, "role host needs role supervisor in the same process")
	case c.has(roleGateway) && !c.has(roleHost):
		return fleet.Errorf(fleet.KindInvalid, "role gateway needs role host in the same process: it reaches guests through the host's own network")
	}
	if _, err := c.connections(); err != nil {
		return err
	}
	if err := c.checkGateway(); err != nil {
		return err
	}
	if c.simulator != "" {
		if err := remote.CheckURL(c.simulator); err != nil {
			return err
		}
	}
	if c.has(roleAPI) {
		if err := api.CheckListen(c.listen); err != nil {
			return err
		}
	}
	return c.checkDataDir()
}

func (c *config) checkGateway() error {
	if len(c.gatewayListen) == 0 {
		return fleet.Errorf(fleet.KindInvalid, "--gateway-listen is empty: give an address such as 127.0.0.1:8065")
	}
	for _, address := range c.gatewayListen {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fleet.Errorf(fleet.KindInvalid, "--gateway-listen %q: give HOST:PORT, such as 127.0.0.1:8065 or [::1]:8065: %w", address, err)
		}
	}
	if _, err := c.proxies(); err != nil {
		return err
	}
	return c.tls.check()
}

// proxies are the networks of --trusted-proxies.
func (c *config) proxies() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range c.trustedProxies {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fleet.Errorf(fleet.KindInvalid, "--trusted-proxies %q: give networks such as 10.0.0.0/24 or 2001:db8::/64: %w", text, err)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

// portHosts are the addresses at which the gateway's own TCP ports are reached.
func (c *config) portHosts() []string {
	hosts := make([]string, len(c.gatewayListen))
	for n, address := range c.gatewayListen {
		hosts[n], _, _ = net.SplitHostPort(address)
	}
	return hosts
}

func (c *config) checkDataDir() error {
	if c.dataDir == "" {
		return fleet.Errorf(fleet.KindInvalid, "name a data directory with --data-dir: there is no home directory to take one from")
	}
	abs, err := filepath.Abs(c.dataDir)
	if err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	c.dataDir = abs
	for _, path := range []*string{&c.efiStub, &c.kernelPackages, &c.kernelImage, &c.trustedKeys, &c.tls.roots, &c.memoryKeyFile} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("finding %s: %w", *path, err)
		}
	}
	if c.imageDir == "" {
		c.imageDir = abs
	}
	if c.nanosDir != "" {
		if c.nanosDir, err = filepath.Abs(c.nanosDir); err != nil {
			return fmt.Errorf("finding the Nanos release: %w", err)
		}
	}
	if c.imageDir, err = filepath.Abs(c.imageDir); err != nil {
		return fmt.Errorf("finding the directory of images: %w", err)
	}
	if c.secretKeyFile != "" {
		if c.secretKeyFile, err = filepath.Abs(c.secretKeyFile); err != nil {
			return fmt.Errorf("finding the key for secrets: %w", err)
		}
	}
	return nil
}

func (c *config) rolesText() string { return strings.Join(c.roles, ",") }
