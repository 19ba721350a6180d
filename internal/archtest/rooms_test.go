package archtest

// A room is a package, or a tree of them ("a/..." is a and all below it), with
// what it may import of this module. Each package has exactly one room.
type room struct {
	path string
	may  []string
	// tests lists what its tests may import besides.
	tests []string
	// standardOnly: nothing of third parties either, tests apart.
	standardOnly bool
	reason       string
}

// rooms is the table of allowed imports within the module. api, supervisor/*,
// store, provider/*, imagebuilder and gateway never import one another: an
// interface lives with its caller, and cmd/* joins them.
func rooms() []room {
	return []room{
		{path: "internal/fleet", standardOnly: true,
			reason: "the words of the domain: everything points here, and it points nowhere"},
		{path: "client", standardOnly: true,
			reason: "the public SDK: whoever uses it takes on no dependency of ours"},
		{path: "api", reason: "the OpenAPI document, embedded: the source of the API"},
		{path: "migrations", standardOnly: true,
			reason: "numbered SQL, embedded"},
		{path: "internal/guest", standardOnly: true,
			reason: "what host and guest say to one another: linked into every image"},
		{path: "internal/store", may: []string{"internal/fleet", "migrations"}, tests: []string{"internal/pgtest"},
			reason: "the only SQL"},
		{path: "internal/devpg", reason: "a private Postgres for --dev: knows no table"},
		{path: "internal/pgtest", may: []string{"internal/devpg"},
			reason: "a fresh database for each test, on a throw-away Postgres: knows no table; imported by tests only"},
		{path: "internal/sealed", may: []string{"internal/fleet"},
			reason: "seals and opens tenants' secrets: does not know where they come from"},
		{path: "internal/supervisor/engine", may: []string{"internal/fleet"},
			reason: "the only loop: it knows steps, not what they do"},
		{path: "internal/supervisor/installation", may: []string{"internal/fleet", "internal/supervisor/engine"},
			tests: []string{"internal/store", "internal/pgtest", "internal/provider/sim"}, reason: "workflows of installations as tables of steps; tested on the real store"},
		{path: "internal/supervisor/idle", may: []string{"internal/fleet"}, tests: []string{"internal/store", "internal/pgtest"},
			reason: "asks for what idle policies say, as the API would; tested on the real store"},
		{path: "internal/supervisor/cluster", may: []string{"internal/fleet", "internal/supervisor/engine"},
			tests: []string{"internal/store", "internal/pgtest", "internal/provider/sim"}, reason: "workflows of clusters as tables of steps; tested on the real store"},
		{path: "internal/supervisor/rollout/steps", may: []string{"internal/fleet", "internal/supervisor/engine", "internal/supervisor/rollout"},
			reason: "the workflow of a rollout: reads, has package rollout decide, and says what to write"},
		{path: "internal/supervisor/rollout", may: []string{"internal/fleet"}, standardOnly: true,
			reason: "plans and judges rollouts: pure, so that any process may take one over at any moment"},
		{path: "internal/supervisor/rollout/exam", may: []string{"internal/fleet", "internal/supervisor/rollout"}, standardOnly: true,
			reason: "plays releases in memory and shows the judge what a provider would: knows no store and no provider"},
		{path: "exam", may: []string{"internal/supervisor/rollout/exam"}, standardOnly: true,
			reason: "prints what the exam of the judge found"},
		{path: "internal/provider/kvm/...", may: []string{"internal/fleet", "internal/guest", "internal/provider/kvm/..."},
			tests: []string{"internal/provider/providertest", "internal/imagebuilder/..."}, reason: "makes machines with QEMU and speaks to their guests; tested with real images"},
		{path: "internal/provider/sim/...", may: []string{"internal/fleet", "internal/provider/sim/..."}, tests: []string{"internal/provider/providertest"},
			reason: "makes machines that exist in its own state only, for one process or, by remote, for many"},
		{path: "internal/provider/providertest", may: []string{"internal/fleet"},
			reason: "the conformance suite of all providers: knows none of them"},
		{path: "internal/imagebuilder/...", may: []string{"internal/fleet", "internal/guest", "internal/imagebuilder/..."},
			reason: "package × kernel → image; guest for the configuration that its init reads"},
		{path: "internal/gateway/...", may: []string{"internal/fleet", "internal/gateway/..."},
			reason: "a tenant's traffic: is told where instances are and how to dial them"},
		{path: "internal/api", may: []string{"internal/fleet", "client", "api"},
			reason: "HTTP in, problem documents out: wire types are the client's"},
		{path: "cmd/provisioner/...", may: []string{"..."}, reason: "composition: the one place that joins the rooms"},
		{path: "cmd/cloudctl", may: []string{"client"}, tests: []string{"internal/api", "internal/fleet", "internal/provider/sim"},
			reason: "a command line over the public SDK, so that the SDK can do all it does"},
		{path: "cmd/init", may: []string{"internal/guest"}, tests: []string{"internal/imagebuilder/linux/..."}, standardOnly: true,
			reason: "init of linux guests: small, static, in every image; tested on the stock kernel"},
		{path: "examples/...", standardOnly: true, reason: "tenants' programs: they know nothing of us"},
		{path: "e2e/...", may: []string{"client", "e2e/..."}, reason: "the real binaries from outside, as a user has them"},
		{path: "internal/integration", may: []string{"..."},
			reason: "tests only: the store, the engine, the workflows and the simulator as cmd/provisioner joins them"},
		{path: "internal/simulate", may: []string{"..."},
			reason: "tests only: several provisioners under one scheduler, joined as cmd/provisioner joins them"},
		{path: "internal/invariants", may: []string{"internal/fleet"},
			reason: "what must hold in the database at rest; imported by tests only"},
		{path: "internal/chaos", may: []string{"..."},
			reason: "tests only: real processes under kills, looked at from outside"},
		{path: "bench/...", may: []string{"..."}, reason: "measures the parts as cmd/provisioner joins them"},
		{path: "scripts", reason: "runs the scripts' own test: they are shell"},
		{path: "internal/archtest", reason: "reads the tree as text"},
	}
}

// A fence keeps imports from outside the module in the rooms that own them. An
// import matches the entries that are equal to it or a parent of it.
type fence struct {
	imports []string
	// only lists the rooms; tests those whose tests may besides.
	only, tests []string
	reason      string
}

func fences() []fence {
	return []fence{
		{imports: []string{"database/sql", "github.com/jmoiron/sqlx", "github.com/lib/pq"},
			only:   []string{"internal/store", "internal/devpg", "internal/pgtest", "bench/..."},
			tests:  []string{"internal/supervisor/...", "internal/integration", "internal/simulate", "internal/chaos", "cmd/provisioner/...", "e2e/..."},
			reason: "SQL stands in the store; devpg asks its own server whether it answers, pgtest makes databases, and bench reads statistics"},
		{imports: []string{"github.com/golang-migrate"}, only: []string{"internal/store", "migrations"},
			reason: "the schema changes in one place"},
		{imports: []string{"github.com/gorilla/mux"}, only: []string{"internal/api"},
			reason: "one router; the other listeners have one route each"},
		{imports: []string{"github.com/vishvananda", "github.com/google/nftables"}, only: []string{"internal/provider/kvm/..."},
			reason: "the host's network belongs to the provider that needs it"},
		{imports: []string{"github.com/aws", "cloud.google.com", "google.golang.org/api", "libvirt.org"}, only: []string{"internal/provider/..."},
			reason: "a cloud's SDK stays behind the provider's six methods"},
		{imports: []string{"github.com/google/go-containerregistry"}, only: []string{"internal/imagebuilder/..."},
			reason: "container images are one source of packages among others"},
		{imports: []string{"github.com/caddyserver", "github.com/mholt/acmez", "go.uber.org/zap"}, only: []string{"internal/gateway/..."},
			reason: "who shows certificates gets them"},
		{imports: []string{"github.com/spf13"}, only: []string{"cmd/provisioner/...", "cmd/cloudctl"},
			reason: "flags are the commands' own; the rest takes options"},
		{imports: []string{"github.com/stretchr/testify"}, only: []string{"internal/provider/providertest"}, tests: []string{"..."},
			reason: "tests only; the conformance suite is one"},
		{imports: []string{"C"}, reason: "binaries are static, and images are built anywhere"},
	}
}

// hypervisors are programs that only a provider runs. A literal that is equal
// to one of them, outside of providers and tests, breaks the rule.
func hypervisors() []string {
	return []string{"qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm"}
}

// runsHypervisor lists the rooms that may.
func runsHypervisor() []string { return []string{"internal/provider/...", "e2e/...", "bench/..."} }
