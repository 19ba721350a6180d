// Package imagebuilder turns packages into images that a provider can boot: it
// admits a package (Builder.Import), and builds package × kernel into an image
// (Builder.Ensure) that is named by what it is made of.
//
// What it keeps lies in one directory:
//
//	packages/<digest>.tar   packages in canonical form, named by their SHA-256
//	images/<id>/            images, complete and never changed once they have their name
//	tmp/                    what is being made, each piece under a lock of its own
//
// Both stores are content-addressed and shared by all processes on the host. A
// piece is made in tmp, written out to disk, and renamed into its place, so
// what has a name is whole, whenever the power fails or the process is killed;
// what was left in tmp is removed by the next New, unless a living process
// still holds its lock. However many ask for an image at once, in however many
// processes, it is built once.
//
// The package must not: run anything from a package, follow a link of a
// package on the host, or change an image that has its name.
//
// Kernels stand behind the Kernel interface; sub-package linux is one. Errors
// are fleet.Errors: KindInvalid (the package is at fault), KindPermanent with
// fleet.ReasonImageBuild (building again can't help), KindCapacity (disk full),
// KindUnavailable (a tool or a kernel is missing for now), KindNotFound.
package imagebuilder
