#!/bin/sh
# Builds the package directory of the example application.
# Usage: scripts/package-workspace.sh OUTDIR [VERSION]
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
	echo "usage: $0 OUTDIR [VERSION]" >&2
	exit 2
fi
version=${2:-1.0.0}
case $version in
*[!0-9A-Za-z.+~-]* | '')
	echo "$0: the version '$version' is not valid: use 0-9 A-Z a-z . + ~ -" >&2
	exit 2
	;;
esac
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$out/workspace" ./examples/workspace
sed "s/\"Version\": \"[^\"]*\"/\"Version\": \"$version\"/" examples/workspace/package.manifest >"$out/package.manifest"
# The same modes whatever the umask, so that the same release has the same digest.
chmod 755 "$out" "$out/workspace"
chmod 644 "$out/package.manifest"
