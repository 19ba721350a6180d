// Package deb makes the file system of an image from Debian packages, without
// installing them and without running anything of them.
//
// apt resolves what the named packages depend on (no recommendations) against an
// empty machine, in a state of our own, from the host's package lists; it also
// downloads, and thereby checks the archive's signatures. Each package's SHA-256 is
// checked again before dpkg-deb unpacks it into a private directory.
//
// # What is kept
//
//   - of the named packages, and of those that they need and that come from the
//     same source package: everything but documentation, translations, units and
//     what else only a running Debian reads (see dropped). Of a package that holds
//     nothing else (a metapackage) what it depends on counts as named;
//   - of the rest: the shared libraries that the loader will look for, as package
//     elfdeps finds them, what libraries open by themselves (see opened in keep.go), and data
//     without which a library or program does not work (see dataOf);
//   - of all of these: their copyright files.
//
// Maintainer scripts never run. What they would have made is made here as far as
// units and sysusers.d and tmpfiles.d say it: users, directories of a service. A
// file of a manifest's overlay wins over all of it.
//
// The result depends on the names, on the package lists and on nothing else.
package deb
