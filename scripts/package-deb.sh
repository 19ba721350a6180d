#!/bin/sh
# Makes a package directory of a program from the distribution's archive, with
# the shared libraries that its ELF files name. Installs nothing.
# Usage: scripts/package-deb.sh OUTDIR NAME      (names: see internal/imagebuilder/packagedeb/recipes.go)
set -eu

if [ $# -ne 2 ]; then
	echo "usage: $0 OUTDIR NAME" >&2
	exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
exec go run ./internal/imagebuilder/packagedeb "$out" "$2"
