package kvm

import (
	"context"
	"fmt"
	"os"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// playCommitter is a provisioner that adopts what runs in a data directory,
// commits the overlay of a volume, and ends. Its arguments are the directory, the
// user network's, and the volume.
func playCommitter(args []string) {
	network, err := hostnet.NewUser(hostnet.Options{StateDir: args[1]})
	if err == nil {
		var p *Provider
		p, err = New(context.Background(), Options{DataDir: args[0], HostID: "host", Images: fakeImages{}, Network: network, Accel: AccelTCG})
		fmt.Println("opened")
		for err == nil {
			err = p.CommitOverlay(context.Background(), fleet.VolumeRef{ID: fleet.VolumeID(args[2]), ClusterID: "cluster", Epoch: 1})
			if fleet.KindOf(err) != fleet.KindUnavailable {
				break
			}
			time.Sleep(time.Millisecond) // QEMU has not greeted yet
			err = nil
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
