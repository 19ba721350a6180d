package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"dormouse/internal/guest"
)

// Requests of ioctl(2): _IOWR('X', 119, int), _IOWR('X', 120, int), _IOW('R', 3, int[2]), _IO('R', 7).
const (
	fiFreeze       = 0xC0045877
	fiThaw         = 0xC0045878
	rndAddEntropy  = 0x40085203
	rndReseedCRNG  = 0x5207
	maxSeed        = 512 // Bytes; the kernel's own state has 32.
	bitsPerByte    = 8
	entropyHeadLen = 8
)

// diskVerbs carries out, one after the other, the verbs that wait for disks, so
// that the main loop never does.
func (m *machine) diskVerbs(commands <-chan guest.Command) {
	for cmd := range commands {
		var err error
		switch cmd.Verb {
		case guest.VerbSync:
			syscall.Sync()
		case guest.VerbFreeze:
			err = m.freeze()
		case guest.VerbThaw:
			err = m.thaw()
		}
		if err != nil {
			m.con.line(err.Error())
		}
		if cmd.ID != 0 { // else somebody here asked
			m.ch.done(cmd.ID, err)
		}
	}
}

// freeze writes the volume out and holds further writes back. A guest without a
// volume has nothing to freeze; one that is frozen already stays so.
func (m *machine) freeze() error {
	syscall.Sync()
	if m.volume == nil {
		return nil
	}
	if err := ioctl(m.volume, fiFreeze, nil); err != nil && !errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("freezing the volume: %w", err)
	}
	return nil
}

// thaw undoes freeze; it may be asked for more often than that.
func (m *machine) thaw() error {
	if m.volume == nil {
		return nil
	}
	if err := ioctl(m.volume, fiThaw, nil); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("thawing the volume: %w", err)
	}
	return nil
}

func setClock(to time.Time) error {
	if to.IsZero() {
		return errors.New("setting the clock: the command has no time")
	}
	tv := syscall.NsecToTimeval(to.UnixNano())
	if err := syscall.Settimeofday(&tv); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

// reseed mixes a seed into the kernel's random state and makes it derive new keys at once,
// so that two machines resumed from one state differ from then on (random(4)).
func reseed(seed []byte) error {
	if len(seed) == 0 || len(seed) > maxSeed {
		return fmt.Errorf("reseeding: the seed has %d bytes, 1 to %d are right", len(seed), maxSeed)
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("reseeding: %w", err)
	}
	defer f.Close()
	request := entropyRequest(seed)
	if err := ioctl(f, rndAddEntropy, unsafe.Pointer(&request[0])); err != nil {
		return fmt.Errorf("reseeding: %w", err)
	}
	if err := ioctl(f, rndReseedCRNG, nil); err != nil {
		return fmt.Errorf("reseeding: %w", err)
	}
	return nil
}

// entropyRequest is a struct rand_pool_info: bits of entropy, bytes of data, the data.
func entropyRequest(seed []byte) []byte {
	b := make([]byte, 0, entropyHeadLen+len(seed)+3)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(seed)*bitsPerByte))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(seed)))
	return append(b, seed...)
}

func ioctl(f *os.File, request uintptr, argument unsafe.Pointer) error {
	for {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(argument))
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		return nil
	}
}
