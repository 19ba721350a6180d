// Package releases keeps releases of kernels that come as archives, such as
// Nanos's: fetched by address and SHA-256, checked before anything of them is
// used, and unpacked into a directory of their own.
//
//	DIR/KIND/<sha256>/        a release, complete once it has its name
//	DIR/KIND/<sha256>.json    where it came from
//	DIR/KIND/current          the digest of the one that new images are built with
//	DIR/tmp-*                 what is being fetched; removed by the next Open
//
// Several processes may share DIR. The package must not run anything of a
// release, and keeps of an archive only the names that a release consists of:
// regular files at its top or in klibs, wherever its top directory is.
package releases
