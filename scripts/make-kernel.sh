#!/bin/sh
# Usage: scripts/make-kernel.sh DEST
#
# Builds the small kernel of linux guests: the distribution's kernel source, as apt
# knows and verifies it, with scripts/kernel/small.config. Leaves it in DEST under the digest of
# all that it is made of, and prints the path of the bzImage. Nothing is installed. It
# takes about ten minutes of a processor, and 2 GB in DEST while it runs; run again, nothing.
#
# The same source, configuration and compiler give the same bytes, wherever and
# whenever it is built.
set -eu

fail() {
	echo "make-kernel: $*" >&2
	exit 1
}
say() { echo "make-kernel: $*" >&2; }

if [ $# -ne 1 ] || [ -z "$1" ]; then
	fail "usage: scripts/make-kernel.sh DEST"
fi
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
config=$here/kernel/small.config
[ "$(uname -m)" = x86_64 ] || fail "the configuration is for x86_64, and this is $(uname -m)"
missing=
for tool in make gcc flex bison bc lz4 xz; do
	command -v "$tool" >/dev/null || missing="$missing $tool"
done
echo '#include <libelf.h>' | gcc -E -o /dev/null - 2>/dev/null || missing="$missing libelf-dev"
[ -z "$missing" ] || fail "missing:$missing. Run
  sudo apt-get install --no-install-recommends make gcc libc6-dev flex bison bc libelf-dev lz4 xz-utils
and then this again"
for tool in apt-cache apt-get dpkg-deb; do
	command -v "$tool" >/dev/null || fail "$tool is missing: this works on Debian and Ubuntu"
done
mkdir -p "$1"
dest=$(cd "$1" && pwd)

# field PACKAGE FIELD: that field of the package's newest version; nothing where apt does not know it.
field() {
	apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n "s/^$2: //p" | head -n 1
}

# The package that one would install is empty and depends on the one with the source.
package=$(field linux-source Depends | sed 's/[,|]/\n/g' | sed 's/(.*//; s/[[:space:]]//g' | grep -E '^linux-source-[0-9]' | head -n 1 || true)
version=
[ -z "$package" ] || version=$(field "$package" Version)
[ -n "$version" ] || fail "apt knows no kernel source (linux-source): run 'sudo apt-get update', then this again"

digest=$({
	printf '%s\n' "$package" "$version"
	gcc --version | head -n 1
	ld --version | head -n 1
	cat "$config" "$here/make-kernel.sh"
} | sha256sum | cut -c1-16)
out=$dest/$digest
if [ -s "$out/bzImage" ]; then
	echo "$out/bzImage"
	exit 0
fi

# Beside its place, so that a rename puts it there.
work=$(mktemp -d "$dest/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
umask 022
chmod 755 "$work"
mkdir "$work/deb" "$work/tree" "$work/source" "$work/out"
# apt downloads as the user _apt where it runs as root: the directory must let it in.
if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then
	chown _apt "$work/deb"
fi
say "fetching $package $version"
(cd "$work/deb" && apt-get -q download "$package" >&2) ||
	fail "apt could not download $package: check the network, run 'sudo apt-get update', then this again"
dpkg-deb -x "$work"/deb/*.deb "$work/tree"
archive=$(find "$work/tree/usr/src" -name "$package.tar.*" -size +1M | head -n 1)
[ -n "$archive" ] || fail "$package holds no source"
say "unpacking it"
tar -C "$work/source" --strip-components=1 -xf "$archive"
rm -rf "$work/deb" "$work/tree"

# Nothing of our environment, and nothing of when, where and by whom, goes into the kernel.
build() {
	env -i PATH="$PATH" LC_ALL=C TZ=UTC HOME=/nonexistent KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' \
		KBUILD_BUILD_USER=dormouse KBUILD_BUILD_HOST=dormouse KBUILD_BUILD_VERSION=1 \
		make -C "$work/source" -s "$@" >"$work/log" 2>&1 || {
		tail -n 30 "$work/log" >&2
		fail "the kernel could not be built: the end of make's output is above"
	}
}
build tinyconfig
cat "$config" >>"$work/source/.config"
build olddefconfig
# What is set without what it depends on is dropped in silence.
grep -E '^(CONFIG_|# CONFIG_)' "$config" | while read -r line; do
	grep -qxF -e "$line" "$work/source/.config" || {
		case $line in
		'#'*) grep -q "^$(echo "$line" | sed 's/^# \([A-Z0-9_]*\) .*/\1/')=" "$work/source/.config" || continue ;;
		esac
		echo "$line"
	}
done >"$work/lost"
[ ! -s "$work/lost" ] || fail "this source does not take, of $config:
$(cat "$work/lost")"
say "building it, about ten minutes of a processor"
build -j "$(nproc)" bzImage
cp "$work/source/arch/x86/boot/bzImage" "$work/source/.config" "$work/out/"
mv "$work/out/.config" "$work/out/config"
printf '%s %s\n' "$package" "$version" >"$work/out/source"
[ -s "$out/bzImage" ] || mv -T "$work/out" "$out"
echo "$out/bzImage"
