package sim

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// journal is a cluster's state on disk: a snapshot and the log of what changed
// since.
//
// Both files are sequences of frames: the payload's length and the CRC-32C of
// length and payload (4 bytes each, little-endian), then the payload, JSON. The snapshot's
// first frame is a header that names its generation N and how many frames follow; the log
// that goes with it is "log.N" (N is 0 where there is no snapshot). A compaction writes log.N+1
// (empty) and a new snapshot beside the old one, syncs them and renames: the rename is the
// moment at which it takes place, and other logs are removed at the next start.
//
// The log may end in a torn frame, from a crash in the midst of a write; it is
// cut off. A frame that is broken while a good one follows is damage, and opening refuses.
// A snapshot is never torn, so any broken frame in it is damage.
type journal struct {
	dir        string
	sync       bool
	log        *os.File
	generation uint64
	// size is where the log's last good frame ends; base is the snapshot's size. In bytes.
	size, base int64
	buffer     []byte
}

const (
	frameHeader  = 8
	maxFrame     = 1 << 20
	snapshotName = "snapshot"
	logPrefix    = "log."
	tmpSuffix    = ".tmp"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapshotHeader is a snapshot's first frame.
type snapshotHeader struct {
	Format     int    `json:"format"`
	Generation uint64 `json:"generation"`
	Frames     int    `json:"frames"`
}

const snapshotFormat = 1

// openJournal reads what dir holds, gives every payload to apply in order, and
// is ready to append. It makes the directory if need be.
func openJournal(dir string, sync bool, log logrus.FieldLogger, apply func([]byte) error) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the simulator's directory: %w", err)
	}
	j := &journal{dir: dir, sync: sync}
	if err := j.readSnapshot(apply); err != nil {
		return nil, err
	}
	path := j.logPath(j.generation)
	if err := j.readLog(path, log, apply); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the simulator's log: %w", err)
	}
	if err := f.Truncate(j.size); err != nil {
		return nil, errors.Join(fmt.Errorf("cutting the torn end off %s: %w", path, err), f.Close())
	}
	j.log = f
	return j, j.removeOthers()
}

func (j *journal) logPath(generation uint64) string {
	return filepath.Join(j.dir, logPrefix+strconv.FormatUint(generation, 10))
}

// damaged says that a file can't be trusted.
func damaged(path string, offset int64) error {
	return fleet.Errorf(fleet.KindPermanent,
		"reading the simulator's state: %s is damaged at byte %d: restore the directory from a backup, or remove it to begin with an empty cluster", path, offset)
}

func (j *journal) readSnapshot(apply func([]byte) error) error {
	path := filepath.Join(j.dir, snapshotName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the simulator's snapshot: %w", err)
	}
	payload, rest, ok := nextFrame(data)
	var header snapshotHeader
	if !ok || json.Unmarshal(payload, &header) != nil || header.Format != snapshotFormat {
		return damaged(path, 0)
	}
	for range header.Frames {
		at := int64(len(data) - len(rest))
		if payload, rest, ok = nextFrame(rest); !ok {
			return damaged(path, at)
		}
		if err := apply(payload); err != nil {
			return fmt.Errorf("%w: %w", damaged(path, at), err)
		}
	}
	j.generation, j.base = header.Generation, int64(len(data))
	return nil
}

func (j *journal) readLog(path string, log logrus.FieldLogger, apply func([]byte) error) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the simulator's log: %w", err)
	}
	for rest := data; len(rest) > 0; {
		payload, after, ok := nextFrame(rest)
		if !ok {
			if goodFrameFollows(rest) {
				return damaged(path, j.size)
			}
			log.WithFields(logrus.Fields{"file": path, "offset": j.size, "bytes": len(rest)}).
				Warn("the simulator's log ends in a torn record, from a crash in the midst of a write; it is cut off")
			return nil
		}
		if err := apply(payload); err != nil {
			return fmt.Errorf("%w: %w", damaged(path, j.size), err)
		}
		rest = after
		j.size = int64(len(data) - len(rest))
	}
	return nil
}

// nextFrame splits the first frame off data; ok is false where it is not whole and sound.
func nextFrame(data []byte) (payload, rest []byte, ok bool) {
	if len(data) < frameHeader {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint32(data)
	if n == 0 || n > maxFrame || int(n) > len(data)-frameHeader {
		return nil, nil, false
	}
	payload = data[frameHeader : frameHeader+int(n)]
	if frameSum(data[:4], payload) != binary.LittleEndian.Uint32(data[4:]) {
		return nil, nil, false
	}
	return payload, data[frameHeader+int(n):], true
}

func frameSum(length, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, payload)
}

// goodFrameFollows tells whether there is a sound frame anywhere behind the
// broken one with which data begins. Payloads are JSON objects, so only places
// where one may begin are looked at.
func goodFrameFollows(data []byte) bool {
	for i := frameHeader; ; i++ {
		n := bytes.IndexByte(data[min(i, len(data)):], '{')
		if n < 0 {
			return false
		}
		i += n
		if start := i - frameHeader; start > 0 {
			if _, _, ok := nextFrame(data[start:]); ok {
				return true
			}
		}
	}
}

// frame appends the frame of payload to b.
func frame(b, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, frameSum(b[len(b)-4:], payload))
	return append(b, payload...)
}

// append makes payload part of the state. After an error it is not, and the
// next append starts where this one did.
func (j *journal) append(payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("writing the simulator's log: a record of %d bytes is larger than %d", len(payload), maxFrame)
	}
	j.buffer = frame(j.buffer[:0], payload)
	_, err := j.log.WriteAt(j.buffer, j.size)
	if err == nil && j.sync {
		err = j.log.Sync()
	}
	if err != nil {
		// Whatever part was written must not look like the beginning of the next.
		return errors.Join(fmt.Errorf("writing the simulator's log: %w", err), j.log.Truncate(j.size))
	}
	j.size += int64(len(j.buffer))
	return nil
}

// compact replaces snapshot and log by the given payloads. After an error the
// state is whole all the same: in the old files, or in the new ones if those
// were in place already.
func (j *journal) compact(payloads [][]byte) error {
	next := j.generation + 1
	header, err := json.Marshal(snapshotHeader{Format: snapshotFormat, Generation: next, Frames: len(payloads)})
	if err != nil {
		return fmt.Errorf("writing a snapshot: %w", err)
	}
	data := frame(nil, header)
	for _, payload := range payloads {
		data = frame(data, payload)
	}
	path := filepath.Join(j.dir, snapshotName)
	if err := writeSynced(path+tmpSuffix, data); err != nil {
		return fmt.Errorf("writing a snapshot: %w", err)
	}
	log, err := os.OpenFile(j.logPath(next), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.Join(fmt.Errorf("beginning a new log: %w", err), os.Remove(path+tmpSuffix))
	}
	if err := os.Rename(path+tmpSuffix, path); err != nil {
		return errors.Join(fmt.Errorf("putting a snapshot in place: %w", err), log.Close(), os.Remove(log.Name()), os.Remove(path+tmpSuffix))
	}
	// From here on the new files are what the next start reads, whatever fails.
	old := j.log
	j.log, j.generation, j.size, j.base = log, next, 0, int64(len(data))
	if err := syncDir(j.dir); err != nil {
		// The old log stays, in case that the rename is lost with the power.
		return errors.Join(fmt.Errorf("syncing the simulator's directory: %w", err), old.Close())
	}
	return errors.Join(old.Close(), os.Remove(old.Name()))
}

// writeSynced writes a file whole and syncs it; after an error it is gone.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeOthers removes what an interrupted compaction left.
func (j *journal) removeOthers() error {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return fmt.Errorf("looking through the simulator's directory: %w", err)
	}
	current := filepath.Base(j.logPath(j.generation))
	for _, e := range entries {
		name := e.Name()
		if name == snapshotName+tmpSuffix || strings.HasPrefix(name, logPrefix) && name != current {
			if err := os.Remove(filepath.Join(j.dir, name)); err != nil {
				return fmt.Errorf("removing what a compaction left: %w", err)
			}
		}
	}
	return nil
}

func (j *journal) close() error { return j.log.Close() }
