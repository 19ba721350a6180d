package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"dormouse/client"
)

const (
	packageName = "tiny"
	clusterName = "sim"
	groupName   = "fleet"
	owner       = "bench"
)

const tinyManifest = `{"Name": "tiny", "Version": "1.0.0", "Program": "tiny",
"Ports": [{"Number": 8080, "Protocol": "http", "Name": "web"}], "Health": {"Type": "http", "Port": 8080, "Path": "/"}, "Restart": "always"}
`

// tinyPackage is the smallest package there is: our static init as its program,
// which nobody runs in a simulated cluster.
func (b *bench) tinyPackage() ([]byte, error) {
	program, err := os.ReadFile(filepath.Join(b.bin, "init"))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for _, f := range []struct {
		name    string
		mode    int64
		content []byte
	}{{"package.manifest", 0o644, []byte(tinyManifest)}, {"tiny", 0o755, program}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// furnish gives a server the package and a simulated cluster, and waits until
// the cluster takes installations.
func (b *bench) furnish(ctx context.Context, p *provisioner, settings map[string]string) error {
	content, err := b.tinyPackage()
	if err != nil {
		return err
	}
	if err := b.upload(ctx, p, content); err != nil {
		return err
	}
	return b.newCluster(ctx, p, client.CreateCluster{Name: clusterName, Provider: "sim", Settings: settings})
}

func (b *bench) upload(ctx context.Context, p *provisioner, content []byte) error {
	if _, err := p.client.Packages.Create(ctx, client.NewPackage{Content: bytes.NewReader(content)}); err != nil {
		return fmt.Errorf("uploading the package: %w", err)
	}
	return nil
}

func (b *bench) newCluster(ctx context.Context, p *provisioner, in client.CreateCluster) error {
	c, err := p.client.Clusters.Create(ctx, in)
	if err != nil {
		return fmt.Errorf("creating cluster %s: %w", in.Name, err)
	}
	op, err := p.client.Operations.Follow(ctx, c.Operation.ID, nil)
	if err == nil && op.State != "succeeded" {
		err = fmt.Errorf("its check %s: %s", op.State, op.Error)
	}
	if err != nil {
		return fmt.Errorf("creating cluster %s: %w", in.Name, err)
	}
	return nil
}

// newInstallation is the body of a create.
func newInstallation(name string) string {
	return fmt.Sprintf(`{"name":%q,"owner":%q,"package":%q,"cluster":%q,"env":{"GREETING":"hello"}}`, name, owner, packageName, clusterName)
}

const installationsPath = "/api/v1/installations"

// fill creates n installations and returns their IDs, in the order of creation.
func fill(ctx context.Context, p *provisioner, prefix string, n int) ([]string, error) {
	ids := make([]string, n)
	_, err := spread(ctx, p.api, 16, n, func(c *conn, i int) error {
		content, err := c.want(202, "POST", installationsPath, "", newInstallation(fmt.Sprintf("%s-%d", prefix, i)))
		if err == nil {
			ids[i], err = idOf(content)
		}
		return err
	})
	return ids, err
}

// worked waits until no operation is open.
func worked(ctx context.Context, d *database, patience time.Duration) error {
	return until(ctx, 10*time.Millisecond, patience, "all operations are finished", func() (bool, error) {
		n, err := d.open(ctx)
		return n == 0, err
	})
}

// crowd is a server of all roles with many stable installations, which several
// benchmarks share.
type crowd struct {
	db   *database
	proc *provisioner
	ids  []string
}

// shared returns the crowd, and makes it first where there is none.
func (b *bench) shared(ctx context.Context) (*crowd, error) {
	if b.crowd == nil && b.crowdErr == nil {
		b.crowd, b.crowdErr = b.newCrowd(ctx)
	}
	return b.crowd, b.crowdErr
}

func (b *bench) newCrowd(ctx context.Context) (*crowd, error) {
	size := pick(b, 10_000, 1_000)
	b.say("making %d stable installations", size)
	f := &crowd{}
	var err error
	if f.db, err = b.newDatabase(ctx, "fleet"); err != nil {
		return nil, err
	}
	if f.proc, err = b.startProvisioner(ctx, start{name: "fleet", database: f.db.url}); err != nil {
		return nil, err
	}
	if err := b.furnish(ctx, f.proc, nil); err != nil {
		return nil, err
	}
	began := time.Now()
	if f.ids, err = fill(ctx, f.proc, "fleet", size); err != nil {
		return nil, err
	}
	accepted := time.Since(began)
	if err := worked(ctx, f.db, 10*time.Minute); err != nil {
		return nil, err
	}
	b.say("accepted in %.1f s, stable after %.1f s", accepted.Seconds(), time.Since(began).Seconds())
	failed, err := f.db.count(ctx, `SELECT count(*) FROM installation WHERE state <> 'stable'`)
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d installations did not become stable: see %s", failed, size, f.proc.logPath)
	}
	if err != nil {
		return nil, err
	}
	return f, f.db.settled(ctx)
}
