package kvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// stateName is the file with the state of a sleeping machine's devices. Whoever
// removes it has used the saved memory up: that is good for one wake.
const stateName = "state"

func (i *instance) statePath() string { return i.clearPath(stateName) }

// savedMemory says what is kept of a machine that sleeps, and on what it relies:
// it is not tried where any of that has changed.
type savedMemory struct {
	Tier fleet.SleepTier `json:"tier"`
	// Bytes is what it takes on the disk.
	Bytes int64     `json:"bytes,omitempty"`
	At    time.Time `json:"at"`
	// Restarts is how often the program had been started again.
	Restarts int `json:"restarts,omitempty"`

	// QEMU is the version that saved it, and has loaded it once; CPU the host's processor.
	QEMU string `json:"qemu,omitempty"`
	CPU  string `json:"cpu,omitempty"`
	// Arguments is a digest of QEMU's arguments but for what differs from start to start.
	Arguments string        `json:"arguments,omitempty"`
	Image     fleet.ImageID `json:"image,omitempty"`
	// Network is pool, address and hardware address.
	Network string       `json:"network,omitempty"`
	Volume  *savedVolume `json:"volume,omitempty"`
	// State and RAM are the files. The memory is too large to be read for a
	// checksum at each wake: it is known by its size and the time of its last write.
	StateBytes  int64     `json:"state_bytes,omitempty"`
	StateSHA256 string    `json:"state_sha256,omitempty"`
	RAMBytes    int64     `json:"ram_bytes,omitempty"`
	RAMWritten  time.Time `json:"ram_written,omitzero"`
}

// savedVolume is the volume as the machine left it.
type savedVolume struct {
	ID         fleet.VolumeID `json:"id"`
	Generation int64          `json:"generation,omitempty"`
	// Written is the time of the last write to its file.
	Written time.Time `json:"written"`
}

// tier of what is kept; cold where nothing is.
func (s *savedMemory) tier() fleet.SleepTier {
	if s == nil {
		return fleet.TierCold
	}
	return s.Tier
}

// memory tells whether there is more than the disks.
func (s *savedMemory) memory() bool { return s.tier() != fleet.TierCold }

// status is what others are told.
func (s *savedMemory) status() *fleet.Saved {
	if s == nil {
		return nil
	}
	return &fleet.Saved{Tier: s.Tier, Bytes: s.Bytes, At: s.At}
}

// describe notes on what the memory of the machine relies that m starts again.
func (i *instance) describe(r *prepared) (*savedMemory, error) {
	s := &savedMemory{
		Tier: fleet.TierWarm, At: i.p.o.Clock().UTC(), QEMU: r.qemu, CPU: i.p.cpu,
		Arguments: r.m.fingerprint(), Image: i.rec.Spec.Image, Network: i.networkKey(),
	}
	ram, err := os.Stat(i.ramPath())
	if err != nil {
		return nil, err
	}
	s.RAMBytes, s.RAMWritten = ram.Size(), ram.ModTime().UTC()
	if s.StateSHA256, s.StateBytes, err = digest(i.statePath()); err != nil {
		return nil, err
	}
	s.Bytes = onDisk(ram) + s.StateBytes
	if ref := i.rec.Spec.Volume; ref != nil {
		v := i.p.volume(ref.ID)
		s.Volume = &savedVolume{ID: ref.ID, Generation: v.note()}
		info, err := os.Stat(v.top())
		if err != nil {
			return nil, err
		}
		s.Volume.Written = info.ModTime().UTC()
	}
	return s, nil
}

// misfit says why the saved memory can't be used; "" is that it can, as far as can
// be told before QEMU is started. Needs the lock.
func (i *instance) misfit(ctx context.Context, s *savedMemory) (string, error) {
	version, err := i.p.qemu.get(ctx)
	if err != nil {
		return "", err
	}
	switch {
	case s.QEMU != version:
		return fmt.Sprintf("it was saved by QEMU %s, this is %s", s.QEMU, version), nil
	case s.CPU != i.p.cpu:
		return fmt.Sprintf("it was saved on another processor (%s), this is %s", s.CPU, i.p.cpu), nil
	case s.Image != i.rec.Spec.Image:
		return fmt.Sprintf("it was saved from the image %s, this is %s", s.Image, i.rec.Spec.Image), nil
	case s.Network != i.networkKey():
		return fmt.Sprintf("it was saved with the network %s, this is %s", s.Network, i.networkKey()), nil
	}
	if cold := i.volumeMisfit(s.Volume); cold != "" {
		return cold, nil
	}
	return i.damaged(s), nil
}

func (i *instance) volumeMisfit(s *savedVolume) string {
	ref := i.rec.Spec.Volume
	switch {
	case (s == nil) != (ref == nil) || ref != nil && s.ID != ref.ID:
		return "it was saved with another volume"
	case ref == nil:
		return ""
	}
	v := i.p.volume(ref.ID)
	info, err := os.Stat(v.top())
	if err != nil {
		return "the volume that it was saved with is gone"
	}
	if v.generation() != s.Generation || !info.ModTime().Equal(s.Written) {
		return "its volume has been written to since it was saved"
	}
	return ""
}

// damaged says what of the files is not as it was written; "" is nothing.
func (i *instance) damaged(s *savedMemory) string {
	for n, name := range i.rec.Tenant {
		if _, err := os.Stat(filepath.Join(i.dir(), tenantDir, name)); name != "" && err != nil {
			return fmt.Sprintf("file %d of its disk is gone", n+1)
		}
	}
	if s.Tier == fleet.TierPacked {
		if _, err := os.Stat(i.packedPath()); err != nil { // what is in it is checked by unpacking
			return "the file with its memory is gone"
		}
		return ""
	}
	ram, err := os.Stat(i.ramPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the file with its memory is gone"
	case err != nil:
		return "the file with its memory can't be looked at: " + err.Error()
	case ram.Size() != s.RAMBytes || !ram.ModTime().Equal(s.RAMWritten):
		return "the file with its memory is not as it was saved"
	}
	sum, size, err := digest(i.statePath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the file with its state is gone"
	case err != nil:
		return "the file with its state can't be read: " + err.Error()
	case size != s.StateBytes || sum != s.StateSHA256:
		return "the file with its state is damaged"
	}
	return ""
}

// networkKey is what a guest that goes on takes for granted of its network.
func (i *instance) networkKey() string {
	address := ""
	if n := i.rec.Spec.Network; n != nil {
		address = n.Address
	}
	return strings.Join([]string{i.p.o.Network.Pool(), address, macOf(i.rec.Spec)}, " ")
}

// fingerprint is a digest of the arguments but for what differs from start to
// start: numbers of descriptors, forwarded ports, and what the machine is started for.
func (m machine) fingerprint() string {
	for _, fd := range []*int{&m.RAM, &m.Kernel, &m.Initrd, &m.Root, &m.Overlay, &m.Config, &m.Volume, &m.Console, &m.QMP, &m.Channel, &m.Firmware} {
		*fd = min(*fd, 1)
	}
	m.Layers = make([]int, len(m.Layers))
	m.Netdev, _, _ = strings.Cut(m.Netdev, ",")
	m.Private, m.Verify, m.Incoming = false, false, false
	sum := sha256.Sum256([]byte(strings.Join(m.arguments(), "\x00")))
	return hex.EncodeToString(sum[:])
}

// digest returns a file's SHA-256 and size.
func digest(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// useUp removes for good what was saved, packed or not: from now on nothing goes
// on from it again. fs.ErrNotExist where there was neither.
func (i *instance) useUp() error {
	state, packed := os.Remove(i.statePath()), os.Remove(i.packedPath())
	for _, err := range []error{state, packed} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if state != nil && packed != nil {
		return state
	}
	return syncDir(filepath.Dir(i.packedPath()))
}

// forgetMemory makes a sleeper a cold one, and says why. The journal is the
// caller's to write. Needs the lock.
func (i *instance) forgetMemory(why string) {
	if err := i.useUp(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.p.log.WithField("instance", i.id).WithError(err).Warn("a saved memory that is of no use could not be removed")
	}
	i.dropRAM()
	i.rec.Saved = &savedMemory{Tier: fleet.TierCold, At: i.rec.Saved.At}
	i.rec.ColdReason = why
}
