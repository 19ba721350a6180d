package linux

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/imagebuilder/fat32"
	"dormouse/internal/imagebuilder/linux/uki"
)

// loader is what firmware starts.
type loader struct {
	file    fat32.File
	sources []*os.File
}

func (l *loader) close() {
	for _, f := range l.sources {
		_ = f.Close()
	}
}

// loaderPath is where firmware looks on a disk that it knows nothing about (UEFI
// specification, 3.5.1.1).
const loaderPath = "EFI/BOOT/BOOTX64.EFI"

func openLoader(k DiskKernel, p fleet.Package) (_ *loader, err error) {
	l := &loader{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	open := func(path, what, get string) (*os.File, int64, error) {
		f, err := openFile(path)
		if err != nil {
			return nil, 0, fleet.Errorf(fleet.KindUnavailable, "reading %s: %w: %s", what, err, get)
		}
		l.sources = append(l.sources, f)
		info, err := f.Stat()
		if err == nil && (info.Size() < 1 || info.Size() > maxLoaded) {
			err = fleet.Errorf(fleet.KindInvalid, "%s has %d bytes: there must be some, and at most %d", what, info.Size(), maxLoaded)
		}
		if err != nil {
			return nil, 0, err
		}
		return f, info.Size(), nil
	}
	stubFile, _, err := open(k.StubPath, "the EFI stub", "run scripts/fetch-efi-stub.sh and name its file")
	if err != nil {
		return nil, err
	}
	stub, err := io.ReadAll(stubFile)
	if err != nil {
		return nil, err
	}
	kernel, kernelSize, err := open(k.VmlinuzPath, "the guest's kernel", "run scripts/fetch-kernel.sh")
	if err != nil {
		return nil, err
	}
	if err := checkEFI(kernel); err != nil {
		return nil, err
	}
	initrd, initrdSize, err := open(k.InitrdPath, "the disk's initrd", "restart the provisioner, which makes it")
	if err != nil {
		return nil, err
	}
	text := func(name, s string) uki.Section {
		return uki.Section{Name: name, Size: int64(len(s)), Content: strings.NewReader(s)}
	}
	image, size, err := uki.Build(stub, []uki.Section{
		text(".osrel", fmt.Sprintf("ID=dormouse\nNAME=Dormouse\nPRETTY_NAME=%q\nVERSION_ID=%q\n", p.Name+" "+p.Version, p.Version)),
		text(".cmdline", strings.TrimSpace(k.Cmdline+" "+guest.CmdlineDisk)),
		{Name: ".initrd", Size: initrdSize, Content: initrd},
		// Last, as ukify has it: a kernel that is started in place needs room behind it.
		{Name: ".linux", Size: kernelSize, Content: kernel},
	})
	if err != nil {
		return nil, err
	}
	l.file = fat32.File{Path: loaderPath, Size: size, Content: image}
	return l, nil
}

// checkEFI tells whether firmware can start the kernel by itself: it is a bzImage
// (the kernel's Documentation/arch/x86/boot.rst) and an EFI program at once.
func checkEFI(f io.ReaderAt) error {
	var head [0x240]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the guest's kernel: %w", err)
	}
	if !bytes.HasPrefix(head[:], []byte("MZ")) || string(head[0x202:0x206]) != "HdrS" {
		return fleet.Errorf(fleet.KindInvalid, "the guest's kernel is no bzImage with an EFI stub (CONFIG_EFI_STUB): give another kernel for disks")
	}
	return nil
}
