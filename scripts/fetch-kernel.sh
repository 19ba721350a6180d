#!/bin/sh
# Usage: scripts/fetch-kernel.sh DEST
#
# Leaves the distribution's newest kernel for virtual machines in DEST, as the
# package (.deb) that apt knows and verifies, and prints its path. Nothing is
# installed and no right beyond writing DEST is needed. Where the modules are a package of their
# own (Ubuntu), there are two paths, the kernel's first.
#
# The package that one would install is empty and depends on the real one, whose
# name holds the version: its dependency is followed. Run again, it does nothing
# when what apt knows is in DEST already.
set -eu

fail() {
	echo "fetch-kernel: $*" >&2
	exit 1
}

if [ $# -ne 1 ] || [ -z "$1" ]; then
	fail "usage: scripts/fetch-kernel.sh DEST"
fi
for tool in apt-cache apt-get dpkg; do
	command -v "$tool" >/dev/null || fail "$tool is missing: this works on Debian and Ubuntu; elsewhere put a kernel package (.deb) into $1 yourself"
done
mkdir -p "$1"
dest=$(cd "$1" && pwd)
arch=$(dpkg --print-architecture)

# field PACKAGE FIELD: that field of the package's newest version; nothing where apt does not know it.
field() {
	apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n "s/^$2: //p" | head -n 1
}

# dependency PACKAGE PATTERN: the first dependency whose name matches.
dependency() {
	field "$1" Depends | sed 's/[,|]/\n/g' | sed 's/(.*//; s/[[:space:]]//g' | grep -E "$2" | head -n 1 || true
}

image=
for meta in "linux-image-cloud-$arch" linux-image-virtual linux-image-kvm "linux-image-$arch" linux-image-generic; do
	image=$(dependency "$meta" '^linux-image-(unsigned-)?[0-9]')
	[ -z "$image" ] || break
done
[ -n "$image" ] || fail "apt knows no kernel package (looked for linux-image-cloud-$arch, linux-image-virtual and others): run 'sudo apt-get update', then this again"
packages=$image
modules=$(dependency "$image" '^linux-modules-[0-9]')
[ -z "$modules" ] || packages="$packages $modules"

# file PACKAGE: the name under which apt-get download leaves it; a colon in a version is written %3a.
file() {
	version=$(field "$1" Version)
	packagearch=$(field "$1" Architecture)
	[ -n "$version" ] || fail "apt knows $1 only by name: run 'sudo apt-get update', then this again"
	echo "$1_$(echo "$version" | sed 's/:/%3a/g')_$packagearch.deb"
}

missing=
for package in $packages; do
	name=$(file "$package")
	[ -f "$dest/$name" ] || missing="$missing $package"
done

if [ -n "$missing" ]; then
	# apt downloads as the user _apt where it runs as root: the directory must let it in.
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	chmod 755 "$work"
	if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then
		chown _apt "$work"
	fi
	# Every word of $missing is a package's name.
	# shellcheck disable=SC2086
	(cd "$work" && apt-get -q download $missing >&2) ||
		fail "apt could not download$missing: check the network, run 'sudo apt-get update', then this again"
	for package in $missing; do
		name=$(file "$package")
		[ -f "$work/$name" ] || fail "apt downloaded something else than $name: run 'sudo apt-get update', then this again"
		# Into place in one step, so that a file in DEST is always whole.
		cp "$work/$name" "$dest/.$name.$$"
		chmod 644 "$dest/.$name.$$"
		mv -f "$dest/.$name.$$" "$dest/$name"
	done
fi

for package in $packages; do
	echo "$dest/$(file "$package")"
done
