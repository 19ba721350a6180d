package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"dormouse/client"
)

const healthPath = "/healthz"

// benchBoot boots the example workspace through us and without us, in turns:
// from the request to the first 200 at its URL, and from the start of QEMU to
// the first 200 of the same image with the same arguments on the same kind of network.
func benchBoot(ctx context.Context, b *bench) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it needs root: the guests are on a bridge in a network namespace")
	}
	packages, err := filepath.Abs(b.kernelPackages)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "data-boot")
	b.onClose(func() error { return endStrays(dir) })
	p, err := b.startProvisioner(ctx, start{name: "boot", dev: true, extra: []string{
		"--accel", b.accel, "--network", "bridge", "--kernel-packages", packages, "--log-format", "json"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := b.furnishBoot(ctx, p); err != nil {
		return err
	}
	first, err := bootOurs(ctx, p, "first", true)
	if err != nil {
		return err
	}
	b.print("boot.first_build_ms", ms(first.total), "ms")
	r, err := b.takeRecipe(p.dataDir, first.instance)
	if err == nil {
		err = bootDelete(ctx, p, "first")
	}
	if err != nil {
		return err
	}
	return b.bootPairs(ctx, p, r)
}

func (b *bench) furnishBoot(ctx context.Context, p *provisioner) error {
	if err := b.newCluster(ctx, p, client.CreateCluster{Name: "local", Provider: "kvm"}); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "workspace")
	if out, err := exec.CommandContext(ctx, "scripts/package-workspace.sh", dir, "1.0.0").CombinedOutput(); err != nil {
		return fmt.Errorf("packaging the workspace (run it in the module's directory): %w: %s", err, out)
	}
	return b.uploadDir(ctx, p, dir)
}

// uploadDir uploads a package's directory.
func (b *bench) uploadDir(ctx context.Context, p *provisioner, dir string) error {
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "cloudctl"), "--server", "http://"+p.api, "package", "create", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("uploading %s: %w: %s", dir, err, out)
	}
	return nil
}

func (b *bench) bootPairs(ctx context.Context, p *provisioner, r *recipe) error {
	place, err := b.newPlace(r, "boot")
	if err != nil {
		return err
	}
	var bare, ours, ratios, exec, healthy, url, accepted []float64
	for pair := range pick(b, 15, 3) {
		name := fmt.Sprintf("pair-%d", pair)
		machine, without, err := r.boot(ctx, place)
		if err == nil {
			err = machine.end()
		}
		if err != nil {
			return fmt.Errorf("booting without us: %w", err)
		}
		with, err := bootOurs(ctx, p, name, false)
		if err == nil {
			err = bootDelete(ctx, p, name)
		}
		if err != nil {
			return fmt.Errorf("booting with us: %w", err)
		}
		b.say("pair %d: bare %.0f ms, ours %.0f ms (%.0f until QEMU runs, %.0f until healthy, %.0f until the URL answers)",
			pair+1, ms(without), ms(with.total), ms(with.exec), ms(with.healthy), ms(with.url))
		bare, ours = append(bare, ms(without)), append(ours, ms(with.total))
		ratios = append(ratios, with.total.Seconds()/without.Seconds())
		accepted = append(accepted, ms(with.exec+with.healthy))
		exec, healthy, url = append(exec, ms(with.exec)), append(healthy, ms(with.healthy)), append(url, ms(with.url))
	}
	b.print("boot.bare_ms", median(bare), "ms")
	b.print("boot.ours_ms", median(ours), "ms")
	b.print("boot.overhead_ratio", median(ours)/median(bare), "ratio")
	b.print("boot.overhead_ratio_of_pairs", median(ratios), "ratio")
	b.print("boot.bare_min_ms", percentile(bare, 0), "ms")
	b.print("boot.ours_min_ms", percentile(ours, 0), "ms")
	b.print("boot.ours.accepted_to_healthy_ms", median(accepted), "ms")
	b.print("boot.ours.accepted_to_exec_ms", median(exec), "ms")
	b.print("boot.ours.exec_to_healthy_ms", median(healthy), "ms")
	b.print("boot.ours.healthy_to_url_ms", median(url), "ms")
	return nil
}

// booted is one boot through us.
type booted struct {
	instance string
	// total is from the request to the first 200; the others are its parts.
	total, exec, healthy, url time.Duration
}

// bootOurs creates an installation and asks for its URL until that answers 200.
func bootOurs(ctx context.Context, p *provisioner, name string, building bool) (booted, error) {
	begin := time.Now()
	v, err := p.client.Installations.Create(ctx, client.CreateInstallation{
		Name: name, Owner: owner, Package: "workspace", Cluster: "local", MemoryMiB: 128})
	if err != nil {
		return booted{}, err
	}
	patience := time.Minute
	if building {
		patience = 5 * time.Minute
	}
	answered, err := firstAnswer(ctx, patience, name+".localhost", func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", p.gateway)
	})
	if err != nil {
		return booted{}, err
	}
	op, err := p.client.Operations.Follow(ctx, v.Operation.ID, nil)
	if err != nil {
		return booted{}, err
	}
	if op.State != "succeeded" {
		return booted{}, fmt.Errorf("creating %s %s: %s", name, op.State, op.Error)
	}
	if v, err = p.client.Installations.Get(ctx, name); err != nil {
		return booted{}, err
	}
	started, healthy, err := p.bootTimes(v.Instance.ID, name)
	return booted{instance: v.Instance.ID, total: answered.Sub(begin),
		exec: started.Sub(begin), healthy: healthy.Sub(started), url: answered.Sub(healthy)}, err
}

func bootDelete(ctx context.Context, p *provisioner, name string) error {
	v, err := p.client.Installations.Delete(ctx, name)
	if err != nil {
		return err
	}
	op, err := p.client.Operations.Follow(ctx, v.Operation.ID, nil)
	if err == nil && op.State != "succeeded" {
		err = fmt.Errorf("deleting %s %s: %s", name, op.State, op.Error)
	}
	return err
}

const (
	// askEvery is how often a URL is asked that does not answer yet.
	askEvery = 5 * time.Millisecond
	// dialPatience: a guest that is not there yet drops the first packet of a
	// connection, which would be sent again only after a second.
	dialPatience   = 50 * time.Millisecond
	answerPatience = 2 * time.Second
)

// firstAnswer asks until there is a 200, and returns when that was.
func firstAnswer(ctx context.Context, patience time.Duration, host string, dial func(context.Context) (net.Conn, error)) (time.Time, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialPatience)
		defer cancel()
		return dial(ctx)
	}}
	defer transport.CloseIdleConnections()
	asker := &http.Client{Transport: transport, Timeout: answerPatience}
	var at time.Time
	err := until(ctx, askEvery, patience, "there is an answer", func() (bool, error) {
		answer, err := asker.Get("http://" + host + healthPath)
		if err != nil {
			return false, nil
		}
		_, err = io.Copy(io.Discard, answer.Body)
		at = time.Now()
		return err == nil && answer.StatusCode == http.StatusOK, answer.Body.Close()
	})
	return at, err
}
