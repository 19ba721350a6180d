#!/bin/sh
# Usage: scripts/fetch-go.sh VERSION DEST
#
# Leaves that version of Go in DEST (its go command is DEST/bin/go), from the
# official archive for this machine, whose published checksum it must have. DEST
# is replaced whole, in the end, or stays as it is.
set -eu

fail() {
	echo "fetch-go: $*" >&2
	exit 1
}

if [ $# -ne 2 ] || [ -z "$1" ] || [ -z "$2" ]; then
	fail "usage: scripts/fetch-go.sh VERSION DEST"
fi
# Since 1.21 a release's name has three numbers; go.mod may hold two.
case $1 in
*.*.* | *rc* | *beta*) release=$1 ;;
*) release=$1.0 ;;
esac
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
i?86) arch=386 ;;
armv[67]*) arch=armv6l ;;
*) arch=$(uname -m) ;;
esac
file=go$release.linux-$arch.tar.gz
url=https://go.dev/dl/$file

mkdir -p "$(dirname "$2")"
parent=$(cd "$(dirname "$2")" && pwd)
dest=$parent/$(basename "$2")
# Beside DEST, so that a rename puts it into place.
work=$(mktemp -d "$dest.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# download URL FILE: tries twice.
download() {
	curl -fsSL --proto =https -o "$2" "$1" || curl -fsSL --proto =https -o "$2" "$1" ||
		fail "downloading $1 was not possible (see above). Where it is, run
  mkdir -p '$dest' && curl -fL $url | tar -xz --strip-components=1 -C '$dest'
(its checksum is on https://go.dev/dl/), or install Go $release by other means"
}

download "$url.sha256" "$work/sum"
sum=$(cat "$work/sum")
case $sum in
*[!0-9a-f]* | '') fail "$url.sha256 holds no checksum: does a proxy answer in its place?" ;;
esac
download "$url" "$work/$file"
echo "$sum  $work/$file" | sha256sum -c --status ||
	fail "$url does not have its published checksum $sum, and was thrown away: run this again"
tar -C "$work" -xzf "$work/$file"
[ -x "$work/go/bin/go" ] || fail "$url holds no go/bin/go"
if [ -e "$dest" ]; then mv -T "$dest" "$work/old"; fi
mv -T "$work/go" "$dest"
echo "fetch-go: Go $release is in $dest/bin"
