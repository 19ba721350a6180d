package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/ramfile"
)

// packedName is the one file that state and memory of a sleeper are packed into.
// Like the state of one that is not packed, it is good for one wake.
const packedName = "packed"

// maxStateBytes bounds the state of the devices: a hundred times what it is.
const maxStateBytes = 64 << 20

func (i *instance) packedPath() string { return filepath.Join(i.dir(), packedName) }

// tokenPath is the file without which a saved memory of that tier has been used up.
func (i *instance) tokenPath(tier fleet.SleepTier) string {
	if tier == fleet.TierPacked {
		return i.packedPath()
	}
	return i.statePath()
}

// sealKey is what the memory of the instance's installation is encrypted with; nil is not.
func (i *instance) sealKey() ([]byte, error) {
	if i.p.o.Seal == nil {
		return nil, nil
	}
	key, err := i.p.o.Seal(i.rec.Spec.InstallationID)
	if err != nil {
		return nil, fmt.Errorf("getting the key of installation %s: %w", i.rec.Spec.InstallationID, err)
	}
	if len(key) != ramfile.KeyBytes {
		return nil, fleet.Errorf(fleet.KindInternal, "the key of installation %s has %d bytes, not %d", i.rec.Spec.InstallationID, len(key), ramfile.KeyBytes)
	}
	return key, nil
}

// pack packs memory and state into a file whose content is on the disk and has
// been read back, but which is not yet where it counts. It needs no lock: of
// a machine that runs meanwhile comes a file that nobody takes.
func (i *instance) pack(ctx context.Context, key []byte) (bytes int64, err error) {
	ram, err := os.Open(i.ramPath())
	if err != nil {
		return 0, err
	}
	defer ram.Close()
	state, err := os.Open(i.statePath())
	if err != nil {
		return 0, err
	}
	defer state.Close()
	f, err := os.OpenFile(i.packedPath()+tempSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	// One core: guests that run come first.
	o := ramfile.Options{Key: key, MaxRAM: i.ramBytes(), MaxState: maxStateBytes, Parallel: 1}
	info, err := ramfile.Pack(ctx, f, ram, state, o)
	if err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if _, err := ramfile.Verify(ctx, f, o); err != nil {
		return 0, err
	}
	return info.Packed, nil
}

// adoptPacked puts the packed file where it counts, and what is to be committed
// into the record. Needs the lock.
func (i *instance) adoptPacked(bytes int64) error {
	if err := os.Rename(i.packedPath()+tempSuffix, i.packedPath()); err != nil {
		return err
	}
	if err := syncDir(i.dir()); err != nil {
		return err
	}
	saved := *i.rec.Saved
	saved.Tier, saved.Bytes = fleet.TierPacked, bytes
	i.rec.Saved = &saved
	return nil
}

// dropRaw removes what has been packed.
func (i *instance) dropRaw() {
	i.dropRAM()
	if err := os.Remove(i.statePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.p.log.WithField("instance", i.id).WithError(err).Warn("the state of a sleeper that is packed could not be removed")
	}
}

// unpack fills the files that QEMU has opened already. cold is why what was
// packed is of no use; an error is one that a boot would meet too.
func (i *instance) unpack(ctx context.Context, ram, state *os.File) (cold string, err error) {
	key, err := i.sealKey()
	if err != nil {
		return "", err
	}
	packed, err := os.Open(i.packedPath())
	if err != nil {
		return "the file with its memory can't be opened: " + err.Error(), nil
	}
	defer packed.Close()
	_, err = ramfile.Unpack(ctx, packed, ram, state, ramfile.Options{Key: key, MaxRAM: i.ramBytes(), MaxState: maxStateBytes})
	if err == nil {
		// What was left out as zeros is taken again.
		err = i.secureRAM(ram)
	}
	switch {
	case err == nil:
		return "", nil
	case isFull(err) || ctx.Err() != nil:
		return "", diskError("unpacking the machine's memory", err)
	}
	return err.Error(), nil
}
