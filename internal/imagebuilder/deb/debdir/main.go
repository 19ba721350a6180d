// Command debdir makes a package directory of Debian packages and an overlay.
//
// Usage: debdir OUTDIR OVERLAY NAME...
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"dormouse/internal/imagebuilder/deb"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "debdir:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, overlay string, names []string) error {
	r, err := deb.Fetch(ctx, names, deb.Options{CacheDir: os.Getenv("DEB_CACHE")})
	if err != nil {
		return err
	}
	defer r.Close()
	for _, w := range r.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	for _, p := range r.Packages {
		fmt.Println(p.Name, p.Version)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if o, err := exec.Command("cp", "-a", filepath.Join(r.Dir, "sysroot"), out).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, o)
	}
	m := map[string]any{"Name": r.Name, "Version": r.Version, "Program": r.Program, "Args": r.Args, "User": r.User}
	fmt.Println(m)
	if overlay != "-" {
		if o, err := exec.Command("cp", "-RP", overlay+"/.", out).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, o)
		}
		raw, err := os.ReadFile(filepath.Join(overlay, "package.manifest"))
		if err != nil {
			return err
		}
		over := map[string]any{}
		if err := json.Unmarshal(raw, &over); err != nil {
			return err
		}
		if over["Program"] != nil {
			delete(m, "Args")
		}
		for k, v := range over {
			m[k] = v
		}
	}
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "package.manifest"), raw, 0o644)
}
