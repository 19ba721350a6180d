#!/bin/sh
# Usage: scripts/fetch-efi-stub.sh DEST
#
# Leaves systemd's EFI stub in DEST and prints its path: the small program that
# firmware starts on disks that boot by themselves, and that starts the kernel.
# It comes out of the distribution's package systemd-boot-efi, which apt
# verifies; nothing is installed.
set -eu

fail() {
	echo "fetch-efi-stub: $*" >&2
	exit 1
}

if [ $# -ne 1 ] || [ -z "$1" ]; then
	fail "usage: scripts/fetch-efi-stub.sh DEST"
fi
case $(uname -m) in
x86_64) name=linuxx64.efi.stub ;;
aarch64) name=linuxaa64.efi.stub ;;
*) fail "there is no EFI stub for $(uname -m)" ;;
esac
for tool in apt-get dpkg-deb; do
	command -v "$tool" >/dev/null || fail "$tool is missing: this works on Debian and Ubuntu; elsewhere put systemd's $name into $1 yourself"
done
mkdir -p "$1"
dest=$(cd "$1" && pwd)

# apt downloads as the user _apt where it runs as root: the directory must let it in.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/deb"
chmod 755 "$work" "$work/deb"
if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then
	chown _apt "$work/deb"
fi
(cd "$work/deb" && apt-get -q download systemd-boot-efi >&2) ||
	fail "apt could not download systemd-boot-efi: check the network, run 'sudo apt-get update', then this again"
dpkg-deb -x "$work"/deb/*.deb "$work/tree"
stub=$work/tree/usr/lib/systemd/boot/efi/$name
[ -s "$stub" ] || fail "the package systemd-boot-efi holds no $name"
if ! cmp -s "$stub" "$dest/$name"; then
	# Into place in one step, so that the file in DEST is always whole.
	cp "$stub" "$dest/.$name.$$"
	chmod 644 "$dest/.$name.$$"
	mv -f "$dest/.$name.$$" "$dest/$name"
fi
echo "$dest/$name"
