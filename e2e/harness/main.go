package harness

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Suite is what the tests of one package share: the binaries and one environment.
type Suite struct {
	openTools func() (*tools, error)

	mu     sync.Mutex
	shared *Environment
	err    error
	opened bool
}

// NewSuite returns a suite that has done nothing yet.
func NewSuite() *Suite { return &Suite{openTools: sync.OnceValues(openTools)} }

// Main runs the tests of a package and returns the exit code. It ends the
// shared environment, and fails where that leaves something.
func (s *Suite) Main(m *testing.M) int {
	if dir := os.Getenv(guardVariable); dir != "" {
		return guardMain(dir)
	}
	flag.Parse()
	if !given("test.parallel") {
		// The tests wait for machines most of the time; as many as there are CPUs would queue.
		if err := flag.Set("test.parallel", "8"); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
	}
	code := m.Run()
	if err := s.close(code != 0); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return max(code, 1)
	}
	return code
}

func given(name string) (found bool) {
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

func (s *Suite) close(failed bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.shared != nil {
		if failed {
			fmt.Fprintf(os.Stderr, "--- log of the shared provisioner\n%s", s.shared.LogTail(200))
		}
		errs = append(errs, s.shared.Close())
	}
	if t, err := s.openTools(); err == nil {
		errs = append(errs, t.close())
	}
	return errors.Join(errs...)
}

// Shared returns the package's one environment, started, with a cluster of
// virtual machines called local. Tests that use it must not end its provisioner.
func (s *Suite) Shared(t testing.TB) *Environment {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opened {
		s.opened = true
		s.shared, s.err = s.open(t, Options{})
		if s.err == nil {
			s.err = s.shared.Start(t.Context())
		}
		if s.err == nil {
			s.err = s.shared.CreateCluster(t.Context())
		}
	}
	if s.err != nil {
		t.Fatalf("starting the shared environment: %v\n%s", s.err, s.shared.LogTail(50))
	}
	return s.shared
}

// Own returns an environment for one test, not started. It ends with the test,
// which fails if something is left then.
func (s *Suite) Own(t testing.TB, o Options) *Environment {
	t.Helper()
	e, err := s.open(t, o)
	if err != nil {
		t.Fatalf("making an environment: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the provisioner:\n%s", e.LogTail(200))
		}
		if err := e.Close(); err != nil {
			t.Errorf("ending the environment: %v", err)
		}
	})
	return e
}

func (s *Suite) open(t testing.TB, o Options) (*Environment, error) {
	t.Helper()
	all, err := s.openTools()
	if err != nil {
		return nil, err
	}
	return open(all, o)
}

// Workspace returns a package directory of the example application.
func (s *Suite) Workspace(t testing.TB, version string) string {
	t.Helper()
	return s.made(t, "workspace-"+version, func(all *tools, dir string) error {
		return all.script("package-workspace.sh", dir, version)
	})
}

// Daemon returns the arguments of `cloudctl package create` for examples/daemons/NAME:
// the names of Debian's packages that its file debs lists, and what is laid over them.
func (s *Suite) Daemon(t testing.TB, name string) []string {
	t.Helper()
	all, err := s.openTools()
	if err != nil {
		t.Fatal(err)
	}
	return overDebs(t, filepath.Join(all.root, "examples", "daemons", name))
}

// MariaDBOnNanos is Daemon for the package directory that examples/daemons/mariadb-nanos makes.
func (s *Suite) MariaDBOnNanos(t testing.TB, password string) []string {
	t.Helper()
	return overDebs(t, s.made(t, "mariadb-nanos", func(all *tools, dir string) error {
		cmd := exec.Command(filepath.Join(all.root, "examples", "daemons", "mariadb-nanos", "make-data.sh"), dir)
		cmd.Env = append(os.Environ(), "MARIADB_ROOT_PASSWORD="+password)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("making MariaDB's data directory: %w\n%s", err, out)
		}
		return nil
	}))
}

func overDebs(t testing.TB, dir string) []string {
	t.Helper()
	debs, err := os.ReadFile(filepath.Join(dir, "debs"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--manifest", dir}
	for deb := range strings.FieldsSeq(string(debs)) {
		args = append(args, "--deb", deb)
	}
	return args
}

// Program returns a package directory with a static program of the module and
// the manifest beside its source.
func (s *Suite) Program(t testing.TB, source string) string {
	t.Helper()
	return s.made(t, "program-"+source, func(all *tools, dir string) error {
		manifest, err := os.ReadFile(all.root + "/" + source + "/package.manifest")
		if err != nil {
			return err
		}
		return errors.Join(all.build(dir+"/program", "./"+source), os.WriteFile(dir+"/package.manifest", manifest, 0o644))
	})
}

func (s *Suite) made(t testing.TB, name string, fill func(*tools, string) error) string {
	t.Helper()
	all, err := s.openTools()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := all.once(name, func(dir string) error { return fill(all, dir) })
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
