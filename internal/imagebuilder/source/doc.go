// Package source reads a package: what a user uploads, judged and brought into
// one canonical form.
//
// A package is a directory, or a tar of one, that holds package.manifest
// (JSON in OPS's keys and a few of ours, see ParseManifest), files that the
// manifest names, and optionally sysroot/, the root file system of the image.
// It is made as well of an ELF program by itself, of a container image (an
// archive, or in a registry), and of what another source has laid into a
// directory. Over each of them such a package directory can be laid.
// The result is a fleet.Manifest with its defaults filled in and a Tree, the
// image's file system as an index over one spool file.
//
// Nothing from a package ever becomes a path on the host: contents go one after
// another into an unnamed spool file, and names are keys of a map. So there is
// no member name, link or mode with which a package could reach the host's
// files. What could not be represented faithfully in an image (devices, links
// out of the tree, names that are not UTF-8) is refused with a fleet.Error of
// KindInvalid that says what to do; sizes are bounded while streaming.
//
// The canonical form (Package.WriteCanonical) is itself a package: a tar of
// package.manifest with everything filled in and of sysroot/, sorted, without
// times and owners. It has the same bytes whatever the order, times, owners or
// compression of the input, so its SHA-256 names the content.
//
// The package neither builds images nor reads ELF files beyond their magic.
package source
