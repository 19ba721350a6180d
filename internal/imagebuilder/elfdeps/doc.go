// Package elfdeps tells, by reading and never by running, whether a program can
// start in an image: its machine, its dynamic loader, and every shared library
// that it and its libraries name, found where the loader in the image will look.
//
// It follows the rules of ld.so(8) of glibc and of musl's loader as far as they
// can be followed without running them: DT_RPATH of the chain of loaders,
// LD_LIBRARY_PATH, DT_RUNPATH, $ORIGIN and $LIB, /etc/ld.so.conf with its
// includes (or /etc/ld-musl-x86_64.path), the default directories. What the C
// library will open by itself (NSS, the unwinder, converters) is told by the
// functions that are imported; what a program opens by itself (dlopen, plugins)
// can't be read from it. That reading finds nothing wrong is not a proof that it runs.
//
// ELF files are hostile input: every size read from one is bounded, section
// headers (which the loader ignores as well) are never parsed, and a panic of
// debug/elf, which is not hardened, becomes an error. Errors are fleet.Errors
// of KindInvalid that say what to do.
package elfdeps
