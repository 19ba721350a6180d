package stock

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// extractVmlinux returns the ELF file that a bzImage unpacks at each boot, so that
// it is unpacked once, here: under emulation that takes a quarter of a second off
// every boot. QEMU starts such a file by the PVH protocol and refuses one
// without its note, so a kernel that has none (CONFIG_PVH), or that is packed in a
// way that is not known here, is an error; its bzImage boots all the same.
//
// The layout is that of the kernel's Documentation/arch/x86/boot.rst: the payload
// lies at payload_offset (0x248) behind the setup sectors, and its last four
// bytes are the unpacked size.
func extractVmlinux(bzImage []byte) ([]byte, error) {
	const headerEnd = 0x250
	if len(bzImage) < headerEnd || string(bzImage[0x202:0x206]) != "HdrS" || binary.LittleEndian.Uint16(bzImage[0x206:]) < 0x208 {
		return nil, errors.New("it is no bzImage with a payload")
	}
	sectors := int64(bzImage[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	from := (sectors+1)*512 + int64(binary.LittleEndian.Uint32(bzImage[0x248:]))
	to := from + int64(binary.LittleEndian.Uint32(bzImage[0x24c:]))
	if to > int64(len(bzImage)) || to-from < 8 {
		return nil, errors.New("its payload is cut off")
	}
	payload := bzImage[from:to]
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	if size > maxFile {
		return nil, fmt.Errorf("it unpacks to more than %d MiB", maxFile>>20)
	}
	image, err := unpackPayload(payload, size)
	if err != nil {
		return nil, err
	}
	return image, checkPVH(image)
}

func unpackPayload(payload []byte, size int64) ([]byte, error) {
	var r io.Reader
	switch {
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}):
		return unpackLZ4(payload[4:len(payload)-4], int(size))
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		z.Multistream(false)
		r = z
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(bytes.NewReader(payload[:len(payload)-4]), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, errors.New("its payload is packed in a way that is not known here (gzip, zstd and lz4 are)")
	}
	image := make([]byte, size)
	if _, err := io.ReadFull(r, image); err != nil {
		return nil, fmt.Errorf("unpacking its payload: %w", err)
	}
	return image, nil
}

// unpackLZ4 unpacks lz4's legacy frame (its lz4_Frame_format.md): blocks, each
// with its packed length before it, that do not refer to one another.
func unpackLZ4(p []byte, size int) ([]byte, error) {
	out := make([]byte, 0, size)
	for len(p) >= 4 {
		n := int(binary.LittleEndian.Uint32(p))
		if n > len(p)-4 {
			return nil, errLZ4
		}
		var err error
		if out, err = lz4Block(out, p[4:4+n], size); err != nil {
			return nil, err
		}
		p = p[4+n:]
	}
	if len(out) != size {
		return nil, errLZ4
	}
	return out, nil
}

var errLZ4 = errors.New("its payload is broken")

// lz4Block unpacks one block (lz4_Block_format.md) behind out: a token, whose
// halves are the number of literals and the length of a copy, each going on in
// further bytes where it is 15; the literals; the copy's distance in two bytes.
func lz4Block(out, p []byte, limit int) ([]byte, error) {
	start := len(out)
	length := func(n int) (int, bool) {
		for more := n == 15; more; {
			if len(p) == 0 {
				return 0, false
			}
			n += int(p[0])
			more = p[0] == 255
			p = p[1:]
		}
		return n, true
	}
	for len(p) > 0 {
		token := int(p[0])
		p = p[1:]
		literals, ok := length(token >> 4)
		if !ok || literals > len(p) || literals > limit-len(out) {
			return nil, errLZ4
		}
		out = append(out, p[:literals]...)
		p = p[literals:]
		if len(p) == 0 {
			return out, nil // The last sequence is literals only.
		}
		if len(p) < 2 {
			return nil, errLZ4
		}
		distance := int(binary.LittleEndian.Uint16(p))
		p = p[2:]
		count, ok := length(token & 15)
		count += 4
		if !ok || distance == 0 || distance > len(out)-start || count > limit-len(out) {
			return nil, errLZ4
		}
		// The copy may run into what it writes.
		for from := len(out) - distance; count > 0; {
			n := min(count, len(out)-from)
			out = append(out, out[from:from+n]...)
			from, count = from+n, count-n
		}
	}
	return out, nil
}

// checkPVH looks for the note XEN_ELFNOTE_PHYS32_ENTRY (type 18, name "Xen"), by
// which QEMU finds the entry point.
func checkPVH(image []byte) error {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("its payload is no ELF file: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(p.Open(), 1<<20))
		if err != nil {
			return fmt.Errorf("reading its notes: %w", err)
		}
		for len(notes) >= 12 {
			name, desc := int(f.ByteOrder.Uint32(notes)), int(f.ByteOrder.Uint32(notes[4:]))
			kind := f.ByteOrder.Uint32(notes[8:])
			end := 12 + (name+3)/4*4
			if end > len(notes) {
				break
			}
			if kind == 18 && bytes.HasPrefix(notes[12:end], []byte("Xen\x00")) {
				return nil
			}
			notes = notes[min(len(notes), end+(desc+3)/4*4):]
		}
	}
	return errors.New("it has no PVH entry point")
}

// writeSparse writes a file with holes where there are only zeros: an unpacked
// kernel is a third zeros.
func writeSparse(file string, content []byte) error {
	const block = 4096
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	zeros := make([]byte, block)
	for at := 0; at < len(content) && err == nil; at += block {
		b := content[at:min(at+block, len(content))]
		if !bytes.Equal(b, zeros[:len(b)]) {
			_, err = f.WriteAt(b, int64(at))
		}
	}
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	return errors.Join(err, f.Close())
}
