package hostnet

import (
	"context"
	"errors"
	"fmt"

	"dormouse/internal/fleet"
)

// What Detect finds.
const (
	// ModeBridge: NewBridge works here.
	ModeBridge = "bridge"
	// ModeUser: only NewUser does.
	ModeUser = "user"
)

// Detect tells which network this machine can have, and in words why. It does
// not guess from rights or modules: it makes a namespace with a bridge, a packet
// filter and a tap, and removes it all.
func Detect(ctx context.Context) (mode, detail string) {
	if err := probeBridge(ctx); err != nil {
		return ModeUser, fmt.Sprintf("loopback ports are forwarded, because a bridge can't be made here: %v", err)
	}
	return ModeBridge, "a network namespace with a bridge, a packet filter and a tap could be made"
}

func probeBridge(ctx context.Context) error {
	b, err := NewBridge(Options{Name: "dormouse-probe-" + fleet.NewID()})
	if err != nil {
		return err
	}
	a, err := b.Attach(ctx, Port{ID: fleet.InstanceID(fleet.NewID()), MAC: "52:54:00:00:00:02", Address: "10.77.0.2/16"})
	if a.TapFD != nil {
		err = errors.Join(err, a.TapFD.Close())
	}
	// It must go also if the caller has lost patience.
	return errors.Join(err, b.Remove(context.WithoutCancel(ctx)))
}
