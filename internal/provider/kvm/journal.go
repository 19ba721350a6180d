package kvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/fleet"
)

// journalVersion is the format of the files written here; a newer one is refused.
const journalVersion = 1

// tombstoneAge is how long the epoch of something deleted is remembered. A
// worker's lease lasts seconds, so nobody comes back with an older one.
const tombstoneAge = 30 * 24 * time.Hour

// instanceRecord is what this host knows of an instance. It is the truth about
// the power state that is wanted here. It contains secrets (Spec.Env).
type instanceRecord struct {
	Version int              `json:"version"`
	ID      fleet.InstanceID `json:"id"`
	// Epoch is the highest that has been seen.
	Epoch fleet.Epoch `json:"epoch"`
	// Deleting: a delete has begun and goes on after a restart.
	Deleting bool `json:"deleting,omitempty"`
	// DeletedAt makes this a tombstone; nothing below is set then.
	DeletedAt time.Time           `json:"deleted_at,omitzero"`
	Spec      *fleet.InstanceSpec `json:"spec,omitempty"`
	// Clone: it is a throw-away copy, on a copy of Spec.Volume.
	Clone nature `json:"clone,omitempty"`
	// Want is PowerOn or PowerOff.
	Want      fleet.Power `json:"want,omitempty"`
	CreatedAt time.Time   `json:"created_at,omitzero"`
	// UID is the user that QEMU runs as; 0 is the provisioner's own.
	UID int `json:"uid,omitempty"`
	// Boots counts the starts, by boot or by resuming.
	Boots int `json:"boots,omitempty"`
	// Starting is written before QEMU is, and Process after: a crash between
	// leaves a QEMU that is found by looking through all processes.
	Starting bool     `json:"starting,omitempty"`
	Process  *process `json:"process,omitempty"`
	// Endpoints maps a guest's port to the address dialled, as of the last start.
	Endpoints map[int]string `json:"endpoints,omitempty"`
	Exit      *fleet.Exit    `json:"exit,omitempty"`
	// Tenant names the overlay and the configuration of a guest that boots from a
	// shared disk, within its directory, as of the last boot.
	Tenant []string `json:"tenant,omitempty"`
	// Asleep: it is off, and a visit wakes it; Saved is what is kept of it. Want is PowerOff.
	Asleep bool         `json:"asleep,omitempty"`
	Saved  *savedMemory `json:"saved,omitempty"`
	// Start is how the machine that runs came to run, and ColdReason why it was
	// booted although its memory had been saved, or why a sleeper's memory was not.
	Start fleet.Start `json:"start,omitempty"`
	// QEMU is the version that it runs in.
	QEMU       string `json:"qemu,omitempty"`
	ColdReason string `json:"cold_reason,omitempty"`
	// Sealed: its memory is never on the disk in clear.
	Sealed bool `json:"sealed,omitempty"`
	// Woken by a visit, of which nobody with an epoch has heard yet.
	Woken bool `json:"woken,omitempty"`
}

// volumeRecord is what this host knows of a volume.
type volumeRecord struct {
	Version        int                  `json:"version"`
	ID             fleet.VolumeID       `json:"id"`
	Epoch          fleet.Epoch          `json:"epoch"`
	DeletedAt      time.Time            `json:"deleted_at,omitzero"`
	InstallationID fleet.InstallationID `json:"installation_id,omitempty"`
	ClusterID      fleet.ClusterID      `json:"cluster_id,omitempty"`
	// SizeMiB is the size of the file system; the file may be larger while it is grown.
	SizeMiB   int       `json:"size_mib,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	// Kernel is whose file system it has; empty is fleet.KernelLinux.
	Kernel fleet.KernelKind `json:"kernel,omitempty"`
	// Overlay is how far the overlay is that lies over it.
	Overlay overlayState `json:"overlay,omitempty"`
	// Generation rises before anybody writes to a volume that a saved memory relies on.
	Generation int64 `json:"generation,omitempty"`
}

// journal is a directory of one JSON file per thing. A file is replaced as a
// whole and is on disk when save returns.
type journal struct{ dir string }

func openJournal(dir string) (journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return journal{}, fmt.Errorf("making the journal: %w", err)
	}
	return journal{dir: dir}, nil
}

func (j journal) path(id string) string { return filepath.Join(j.dir, id+".json") }

// save replaces the file of id and returns once it would survive a power cut.
func (j journal) save(id string, record any) error {
	body, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding the journal of %s: %w", id, err)
	}
	if err := writeDurably(j.path(id), append(body, '\n')); err != nil {
		return diskError("writing the journal of "+id, err)
	}
	return nil
}

func (j journal) remove(id string) error {
	if err := os.Remove(j.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the journal of %s: %w", id, err)
	}
	return syncDir(j.dir)
}

// each calls load with every file's ID and content, and removes what a cut
// write has left behind.
func (j journal) each(load func(id string, body []byte) error) error {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	for _, entry := range entries {
		name := entry.Name()
		id, isRecord := strings.CutSuffix(name, ".json")
		if !isRecord {
			if strings.HasSuffix(name, tempSuffix) {
				_ = os.Remove(filepath.Join(j.dir, name))
			}
			continue
		}
		body, err := os.ReadFile(filepath.Join(j.dir, name))
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		if err := load(id, body); err != nil {
			return fmt.Errorf("reading the journal %s: %w", j.path(id), err)
		}
	}
	return nil
}

func decodeInstance(id string, body []byte) (instanceRecord, error) {
	var rec instanceRecord
	if err := json.Unmarshal(body, &rec); err != nil {
		return rec, err
	}
	switch {
	case rec.Version != journalVersion:
		return rec, fmt.Errorf("it has version %d, this program knows %d: run the newer program again", rec.Version, journalVersion)
	case string(rec.ID) != id:
		return rec, fmt.Errorf("it belongs to %q", rec.ID)
	case rec.DeletedAt.IsZero() && rec.Spec == nil:
		return rec, errors.New("it has no spec")
	}
	return rec, nil
}

func decodeVolume(id string, body []byte) (volumeRecord, error) {
	var rec volumeRecord
	if err := json.Unmarshal(body, &rec); err != nil {
		return rec, err
	}
	switch {
	case rec.Version != journalVersion:
		return rec, fmt.Errorf("it has version %d, this program knows %d: run the newer program again", rec.Version, journalVersion)
	case string(rec.ID) != id:
		return rec, fmt.Errorf("it belongs to %q", rec.ID)
	}
	return rec, nil
}

// admit refuses an epoch lower than the highest seen.
func admit(what, id string, seen, epoch fleet.Epoch) error {
	if epoch < seen {
		return fleet.Errorf(fleet.KindFenced,
			"%s %s: epoch %d is older than %d, which this host has seen: a newer worker has taken over", what, id, epoch, seen)
	}
	return nil
}

// tempSuffix ends the names of files that are being written.
const tempSuffix = ".tmp"

// writeDurably replaces a file as a whole, readable by its owner only, and
// returns when it and its name are on disk.
func writeDurably(path string, body []byte) (err error) {
	temp := path + tempSuffix
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	_, err = f.Write(body)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// diskError gives a full disk its kind and says what to do about it.
func diskError(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e := fleet.Errorf(fleet.KindCapacity, "%s: the disk is full, free some space in the data directory: %w", doing, err)
		e.Reason = fleet.ReasonCapacity
		return e
	}
	return fmt.Errorf("%s: %w", doing, err)
}
