package nanos

import (
	"slices"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/tfs"
)

// traceKlib is the kernel's module that writes each system call to the console.
const traceKlib = "strace"

// specialiseTraced is Specialise for a boot whose console tells every system
// call and what came of it, which Evidence reads. The module comes with the tenant's
// overlay, some 100 KiB more: the image is the one that all have. It has to be of the release that the image was
// built from, else the error is KindUnavailable. It is slow: a try, not a service.
func (k *Kernel) specialiseTraced(imageDir string, t fleet.Tenant, dir string) (fleet.TenantFiles, error) {
	b, err := readBuild(imageDir)
	if err != nil {
		return fleet.TenantFiles{}, err
	}
	r, err := k.load()
	if err != nil {
		return fleet.TenantFiles{}, err
	}
	if r.digest != b.Release {
		return fleet.TenantFiles{}, fleet.Errorf(fleet.KindUnavailable, "the image was built from another Nanos release than the one that is here: build it anew to trace it")
	}
	if _, ok := r.klibs[traceKlib]; !ok {
		return fleet.TenantFiles{}, fleet.Errorf(fleet.KindUnavailable, "the Nanos release has no module %s: take one that has", traceKlib)
	}
	return specialise(imageDir, b, t, dir, func(a *tfs.Appender) error {
		// All modules come from one place: those that the image has in bootfs as well.
		modules := map[string]tfs.Value{}
		for _, name := range wanted(append(slices.Clone(b.Klibs), traceKlib)) {
			file, err := a.File(r.klibs[name])
			if err != nil {
				return err
			}
			modules[name] = file
		}
		directory := tfs.NewTuple(tfs.Attr{Name: "children", Value: tupleOf(modules)})
		if err := a.Set(b.RootIndex, tfs.Attr{Name: "klib", Value: directory}); err != nil {
			return err
		}
		return a.Set(tfs.RootIndex, tfs.Attr{Name: "klibs", Value: "rootfs"}, tfs.Attr{Name: "debugsyscalls", Value: "t"})
	})
}
