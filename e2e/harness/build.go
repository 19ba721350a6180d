package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// tools are the binaries under test, and files that tests share.
type tools struct {
	// root is the directory of go.mod.
	root string
	// dir is a temporary directory that everybody may enter; bin holds the binaries.
	dir, bin string
	guard    *guard

	mu       sync.Mutex
	packages map[string]func() (string, error)
}

// openTools builds the binaries, or takes those in DORMOUSE_BIN.
func openTools() (_ *tools, err error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	t := &tools{root: root, packages: map[string]func() (string, error){}}
	if t.dir, err = openDirectory("dormouse-e2e-tools-"); err != nil {
		return nil, err
	}
	if t.guard, err = startGuard(t.dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(t.dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if t.bin = os.Getenv("DORMOUSE_BIN"); t.bin != "" {
		for _, name := range []string{"provisioner", "cloudctl", "init"} {
			if _, err := os.Stat(filepath.Join(t.bin, name)); err != nil {
				return nil, fmt.Errorf("DORMOUSE_BIN has no %s: run make build, or leave DORMOUSE_BIN out: %w", name, err)
			}
		}
		return t, nil
	}
	t.bin = filepath.Join(t.dir, "bin")
	if err := os.Mkdir(t.bin, 0o755); err != nil {
		return nil, err
	}
	return t, t.build(t.bin+"/", "./cmd/provisioner", "./cmd/cloudctl", "./cmd/init")
}

func (t *tools) build(out string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", out}, packages...)...)
	cmd.Dir = t.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %v: %w\n%s", packages, err, output)
	}
	return nil
}

func (t *tools) close() error {
	err := os.RemoveAll(t.dir)
	t.guard.stop()
	return err
}

// once makes a thing at most once, in a directory of its own.
func (t *tools) once(name string, fill func(dir string) error) (string, error) {
	t.mu.Lock()
	f, ok := t.packages[name]
	if !ok {
		f = sync.OnceValues(func() (string, error) {
			dir := filepath.Join(t.dir, name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return "", err
			}
			return dir, fill(dir)
		})
		t.packages[name] = f
	}
	t.mu.Unlock()
	return f()
}

// script runs a script of the repository.
func (t *tools) script(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(t.root, "scripts", name), args...)
	cmd.Dir = t.root
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running scripts/%s: %w\n%s", name, err, output)
	}
	return nil
}

// kernelPackages returns the directory that scripts/fetch-kernel.sh filled.
func (t *tools) kernelPackages() (string, error) {
	dir := os.Getenv("DORMOUSE_KERNEL_PACKAGES")
	if dir == "" {
		dir = filepath.Join(t.root, ".cache", "kernel")
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return "", err
	}
	if len(debs) == 0 {
		return "", fmt.Errorf("there is no kernel for guests in %s: run scripts/fetch-kernel.sh %s", dir, dir)
	}
	return dir, nil
}

// repository finds the directory of go.mod.
func repository() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, statErr := os.Stat(filepath.Join(dir, "go.mod")); statErr == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("finding the repository: no go.mod above the working directory; run go test in it")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// openDirectory makes a temporary directory that every user may enter: QEMU
// and Postgres run as others than we.
func openDirectory(prefix string) (string, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	for d := filepath.Dir(dir); d != "/"; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return "", err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return "", errors.Join(fmt.Errorf("other users may not enter %s: set TMPDIR to a directory that they may", d), os.Remove(dir))
		}
	}
	return dir, nil
}
