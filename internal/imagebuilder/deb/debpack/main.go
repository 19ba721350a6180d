// Command debpack makes a package archive of Debian packages and an overlay, the
// directory of a package.manifest: what a provisioner does when it is asked for
// the same. It is for tests, and for looking at what would come.
//
// Usage: debpack OUT.tar.gz OVERLAY NAME...   ("" is no overlay)
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"dormouse/internal/imagebuilder/deb"
	"dormouse/internal/imagebuilder/source"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: debpack OUT.tar.gz OVERLAY NAME...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "debpack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, overlay string, names []string) (err error) {
	work, err := os.MkdirTemp("", "debpack-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	root := filepath.Join(work, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	laid, err := deb.Fetch(ctx, root, names, deb.Options{CacheDir: os.Getenv("DEB_CACHE")})
	if err != nil {
		return err
	}
	o := source.Options{SpoolDir: work}
	if overlay != "" {
		body, err := exec.CommandContext(ctx, "tar", "-C", overlay, "-c", ".").Output()
		if err != nil {
			return fmt.Errorf("packing %s: %w", overlay, err)
		}
		o.Overlay = bytes.NewReader(body)
	}
	p, err := source.FromDirectory(ctx, root, laid, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	for _, w := range p.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	zipped := gzip.NewWriter(f)
	digest, size, err := p.WriteCanonical(ctx, zipped)
	if err := errors.Join(err, zipped.Close(), f.Close()); err != nil {
		return err
	}
	for _, origin := range p.Origins {
		fmt.Println(origin.Name, origin.Version)
	}
	fmt.Printf("%s@%s %s %d bytes, %d files\n", p.Name, p.Version, digest, size, p.Tree.Len())
	return nil
}
