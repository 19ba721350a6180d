package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
	"unsafe"
)

// The phases in which modules are loaded, as the initrd's list names them.
const (
	phaseBoot   = "boot"
	phaseVolume = "volume"
	// phaseDisk is for machines that may be anybody's: what refuses is passed over.
	phaseDisk = "disk"
)

// module is one line of the initrd's list: "<file> <phase>".
type module struct{ file, phase string }

func readModuleOrder(file string) ([]module, error) {
	list, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the list of modules in the initrd: %w", err)
	}
	return parseModuleOrder(string(list))
}

func parseModuleOrder(list string) ([]module, error) {
	var modules []module
	for line := range strings.SplitSeq(strings.TrimSpace(list), "\n") {
		if line == "" {
			continue
		}
		file, phase, ok := strings.Cut(line, " ")
		if !ok || file == "" || strings.Contains(file, "/") {
			return nil, fmt.Errorf("the list of modules in the initrd has a line that is not understood: %q", line)
		}
		modules = append(modules, module{file, phase})
	}
	return modules, nil
}

// loadModules loads the modules of a phase in their order.
func loadModules(dir string, modules []module, phase string) error {
	for _, m := range modules {
		if m.phase != phase {
			continue
		}
		if err := loadModule(path.Join(dir, m.file)); err != nil && phase != phaseDisk {
			return fmt.Errorf("loading module %s: %w", m.file, err)
		}
	}
	return nil
}

func loadModule(file string) error {
	fd, err := syscall.Open(file, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	noParameters := [1]byte{}
	_, _, errno := syscall.Syscall(sysFinitModule, uintptr(fd), uintptr(unsafe.Pointer(&noParameters[0])), 0)
	if errno != 0 && !errors.Is(errno, syscall.EEXIST) {
		return errno
	}
	return nil
}
