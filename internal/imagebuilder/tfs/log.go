package tfs

import (
	"fmt"
	"io"
)

// Records of a log (src/fs/tlog.c).
const (
	recordEnd      = 1 // the log ends here
	recordTuple    = 2 // total length, length here, bytes
	recordMore     = 3 // length, bytes
	recordSegment  = 4 // where the log ended once
	recordLink     = 5 // the next extent: sector, length in sectors
	magic          = "NVMTFS"
	version        = 5
	oldVersion     = 4
	uuidLen        = 16
	labelLen       = 32 // with the zero that ends it
	maxRecordHead  = 21 // a type and two varints
	minRecordSpace = 2*maxRecordHead + 32
)

// LogSectors is the usual length of an extent of the log, in sectors.
const LogSectors = 1024

// logExtent is a part of the log, in sectors.
type logExtent struct{ start, sectors int64 }

func (x logExtent) bytes() int64 { return x.sectors * SectorSize }

// logWriter lays records out over extents. What it has written it holds until
// an extent is full.
type logWriter struct {
	w io.WriterAt
	// allocate returns the place of another extent that holds at least so many sectors.
	allocate func(sectors int64) (logExtent, error)
	current  logExtent
	// from is the offset of buf in the extent: a multiple of the sector size.
	from int64
	buf  []byte
}

func (l *logWriter) begin(x logExtent) {
	l.current, l.from = x, 0
	l.buf = append(l.buf[:0], magic...)
	l.buf = appendVarint(appendVarint(l.buf, version), uint64(x.sectors))
}

func (l *logWriter) offset() int64 { return l.from + int64(len(l.buf)) }

// record adds one encoded value, in pieces where the extent has no room for it.
func (l *logWriter) record(value []byte) error {
	for rest := value; len(rest) > 0; {
		if l.offset()+minRecordSpace >= l.current.bytes() {
			if err := l.extend(int64(len(rest))); err != nil {
				return err
			}
		}
		n := min(int64(len(rest)), l.current.bytes()-l.offset()-2*maxRecordHead)
		if len(rest) == len(value) {
			l.buf = appendVarint(append(l.buf, recordTuple), uint64(len(value)))
		} else {
			l.buf = append(l.buf, recordMore)
		}
		l.buf = appendVarint(l.buf, uint64(n))
		l.buf = append(l.buf, rest[:n]...)
		rest = rest[n:]
	}
	return nil
}

// extend links another extent to the current one.
func (l *logWriter) extend(need int64) error {
	next, err := l.allocate(LogSectors)
	if err != nil {
		return fmt.Errorf("extending the log by %d bytes: %w", need, err)
	}
	l.buf = append(l.buf, recordLink)
	l.buf = appendVarint(appendVarint(l.buf, uint64(next.start)), uint64(next.sectors))
	if err := l.flush(); err != nil {
		return err
	}
	l.begin(next)
	return nil
}

// finish ends the log; end is where, in bytes from the beginning of the file system.
func (l *logWriter) finish() (end int64, err error) {
	end = l.current.start*SectorSize + l.offset()
	l.buf = append(l.buf, recordEnd)
	return end, l.flush()
}

func (l *logWriter) flush() error {
	if pad := len(l.buf) % SectorSize; pad > 0 {
		l.buf = append(l.buf, make([]byte, SectorSize-pad)...)
	}
	_, err := l.w.WriteAt(l.buf, l.current.start*SectorSize+l.from)
	return err
}
