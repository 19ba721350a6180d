#!/bin/sh
# Usage: scripts/fuzz.sh TIME [PATTERN]
#
# Runs every fuzz target of the module whose directory or name matches the
# pattern, one after another, each for that long or that often, as go test's
# -fuzztime takes it (1m, 500x). What one finds is left in testdata/fuzz beside it,
# to be committed with the mending.
set -eu
cd "$(dirname "$0")/.."
time=${1:?usage: scripts/fuzz.sh TIME [PATTERN]}
pattern=${2:-.}
list=$(mktemp)
said=$(mktemp)
trap 'rm -f "$list" "$said"' EXIT
trap 'exit 1' HUP INT TERM

grep -rn --include='*_test.go' '^func Fuzz' internal cmd client |
	sed 's|^\(.*\)/[^/]*:[0-9]*:func \(Fuzz[A-Za-z0-9_]*\).*|\1 \2|' | sort | grep -e "$pattern" >"$list"
[ -s "$list" ] || {
	echo "fuzz: no target matches $pattern" >&2
	exit 1
}
while read -r dir target <&3; do
	echo "fuzzing $dir $target for $time"
	code=0
	go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel "${FUZZ_PARALLEL:-2}" >"$said" 2>&1 || code=$?
	# Go's own end of the time may be taken for a failure: it leaves no input.
	if [ $code -ne 0 ] && grep -q 'context deadline exceeded' "$said" && ! grep -q 'Failing input' "$said"; then
		echo "the time was over in the middle of an input"
		code=0
	fi
	tail -n 3 "$said"
	[ $code -eq 0 ] || {
		cat "$said" >&2
		exit 1
	}
done 3<"$list"
