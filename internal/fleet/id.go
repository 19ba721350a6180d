package fleet

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// Distinct types, so that the compiler refuses an instance where an
// installation is meant. Each holds a string made by NewID or DeriveID.
type (
	InstallationID string
	InstanceID     string
	VolumeID       string
	ClusterID      string
	HostID         string
	GroupID        string
	PackageID      string
	OperationID    string
	LeaseID        string
	// ImageID is the hex digest that names an image: package digest × kernel
	// digest × builder version.
	ImageID string
	// WorkerID names one provisioner process for as long as its data directory lives.
	WorkerID string
	// Epoch is a fencing token: it rises with every claim of an operation, and
	// whoever holds a lower one than has been seen is refused.
	Epoch int64
)

// IDLength is the length in characters of every ID made here.
const IDLength = 26

var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewID returns a new identifier: 48 bits of milliseconds since 1970 (so that
// IDs sort by age, as in RFC 9562 version 7) and 80 random bits, as 26
// lower-case characters of base32hex.
func NewID() string { return idAt(time.Now()) }

func idAt(t time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(t.UnixMilli())<<16)
	if _, err := rand.Read(b[6:]); err != nil {
		panic("fleet: the system's random source failed: " + err.Error())
	}
	return idEncoding.EncodeToString(b[:])
}

// DeriveID returns the identifier that belongs to the given parts: always the
// same one, so that a step run twice names the same thing twice.
func DeriveID(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return idEncoding.EncodeToString(sum[:16])
}

// ValidID tells whether s has the form of an identifier made here.
func ValidID(s string) bool {
	if len(s) != IDLength {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'v') {
			return false
		}
	}
	return true
}
