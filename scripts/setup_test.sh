#!/bin/sh
# Usage: scripts/setup_test.sh
#
# Tests setup.sh and fetch-go.sh on a made-up machine: a copy of the scripts in
# a directory of its own, with apt-get, sudo, curl, go and the machine's files
# faked. Prints a line per case; exits with 1 if one failed.
set -eu
unset GOTOOLCHAIN DORMOUSE_YES
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
trap 'exit 1' HUP INT TERM

# shellcheck source=scripts/setup_test_machine.sh
. "$scripts/setup_test_machine.sh"

# run CODE ARGUMENT...: runs setup.sh without a terminal; its exit code must be CODE.
run() { run_in "$w/tree/scripts/setup.sh" "$@"; }
run_in() {
	command=$1 want=$2
	shift 2
	: >"$w/log"
	code=0
	(cd / && DORMOUSE_SETUP_SYSROOT="$w/sys" PATH="$w/bin" "$command" "$@") >"$w/out" 2>&1 </dev/null || code=$?
	[ "$code" = "$want" ] || wrong "exit code $code instead of $want"
}

# at_terminal CODE REPLY ARGUMENT...: the same at a terminal, where REPLY is typed.
at_terminal() {
	want=$1 reply=$2
	: >"$w/log"
	code=0
	echo "$reply" | DORMOUSE_SETUP_SYSROOT="$w/sys" script -qec "PATH='$w/bin' '$w/tree/scripts/setup.sh'" /dev/null >"$w/out" 2>&1 || code=$?
	[ "$code" = "$want" ] || wrong "exit code $code instead of $want"
}

wrong() {
	bad=1
	echo "   $name: $*"
	sed 's/^/     | /' "$w/out"
	sed 's/^/     log: /' "$w/log"
}
says() { grep -qF -- "$1" "$w/out" || wrong "does not say: $1"; }
silent() { ! grep -qF -- "$1" "$w/out" || wrong "says: $1"; }
did() { grep -q -- "$1" "$w/log" || wrong "did not: $1"; }
not() { ! grep -q -- "$1" "$w/log" || wrong "did: $1"; }
there() { [ -e "$1" ] || wrong "is not there: $1"; }
gone() { [ ! -e "$1" ] || wrong "is there: $1"; }

# A machine that has everything.
complete_machine() {
	machine
	run 0 --test
}

missing_packages() {
	machine
	run 0 --test
	for p in qemu-system-x86 qemu-utils squashfs-tools e2fsprogs iproute2 curl ca-certificates postgresql mosquitto-clients redis-tools shellcheck dosfstools mtools fdisk ovmf; do
		says "  $p: "
	done
	did '^update$'
	did '^install qemu-system-x86 qemu-utils squashfs-tools e2fsprogs iproute2 curl ca-certificates mosquitto-clients redis-tools shellcheck dosfstools mtools fdisk ovmf$'
	did '^install postgresql-common$'
	did '^install postgresql-15$'
	did '^fetch-kernel$'
	not 'started clusters'
	not 'ssh was denied'
	gone "$w/sys/etc/postgresql/15/main"
	gone "$w/sys/usr/sbin/policy-rc.d"
	grep -qx '#create_main_cluster = true' "$w/sys/etc/postgresql-common/createcluster.conf" || wrong "createcluster.conf is not as it was"
	[ "$(wc -l <"$w/sys/etc/postgresql-common/createcluster.conf")" = 1 ] || wrong "createcluster.conf has more lines than it had"
}

all_there() {
	complete_machine
	run 0 --test
	[ ! -s "$w/log" ] || wrong "it did something"
	says "all that is needed is here"
	run 0 --check --test
	[ ! -s "$w/log" ] || wrong "--check did something"
}

check_reports() {
	machine
	rm "$w/bin/go"
	run 1 --check
	says "  postgresql: "
	says "  go: "
	says "  kernel: "
	says "  EFI stub: "
	silent mosquitto
	[ ! -s "$w/log" ] || wrong "--check did something"
	gone "$w/tree/.cache"
}

no_sudo() {
	machine
	user 1000
	run 1
	says "there is no sudo"
	says "sh '$w/tree/scripts/setup.sh' --packages"
	[ ! -s "$w/log" ] || wrong "it did something"
	run 1 --packages
	user 0 # the administrator runs what was said
	run 0 --packages
	did '^install postgresql-15$'
	not fetch-kernel
	gone "$w/tree/.cache"
	user 1000
	run 0
	not install
}

sudo_without_terminal() {
	machine
	sudo_works
	run 0
	says "there is no terminal to ask at: going on with sudo"
	did '^sudo -n true$'
	did '^install postgresql-15$'
	[ "$(grep -c 'qemu-utils: ' "$w/out")" = 1 ] || wrong "it says the list twice"
}

sudo_wants_password() {
	machine
	user 1000
	program "$w/bin/sudo" <<-TXT
		exit 1
	TXT
	run 1
	says "there is no terminal: an administrator"
	not install
}

declined() {
	machine
	sudo_works
	at_terminal 1 n
	says "nothing was installed"
	not .
}

agreed() {
	machine
	sudo_works
	at_terminal 0 y
	says "Do that with sudo?"
	did '^install postgresql-15$'
}

said_yes_before() {
	machine
	sudo_works
	DORMOUSE_YES=1 at_terminal 0 n
	silent "Do that with sudo?"
	did '^install postgresql-15$'
}

old_postgres() {
	machine
	echo 14+238 >"$w/postgresql.candidate"
	run 1
	says "apt knows PostgreSQL 14, and 15 or newer is needed"
	says /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh
	not install
	echo 18+285.pgdg22.04+1 >"$w/postgresql.candidate" # after that
	run 0
	did '^install postgresql-18$'
}

old_qemu() {
	machine
	echo 1:6.2+dfsg-2ubuntu6 >"$w/qemu-system-x86.candidate"
	run 1
	says "apt knows QEMU 6.2, and 7.2 or newer is needed"
	not install
}

# The cluster of an older server stays as it is, be it stopped.
existing_cluster() {
	machine
	mkdir -p "$w/sys/etc/postgresql/14/main" "$w/sys/etc/postgresql-common"
	# A run that was killed: what it left concerns nobody, and the next one takes it away.
	program "$w/sys/usr/sbin/policy-rc.d" <<-TXT
		# put here by Dormouse's scripts/setup.sh while it installs
		kill -0 999999999 2>/dev/null || exit 0
	TXT
	echo auto >"$w/sys/etc/postgresql/14/main/start.conf"
	printf 'create_main_cluster = true' >"$w/sys/etc/postgresql-common/createcluster.conf"
	run 0
	not 'started clusters'
	gone "$w/sys/etc/postgresql/15"
	[ "$(cat "$w/sys/etc/postgresql/14/main/start.conf")" = auto ] || wrong "start.conf has changed"
	[ "$(cat "$w/sys/etc/postgresql-common/createcluster.conf")" = "create_main_cluster = true" ] || wrong "createcluster.conf has changed"
}

existing_policy() {
	machine
	program "$w/sys/usr/sbin/policy-rc.d" <<-TXT
		exit 101
	TXT
	run 0
	[ "$(tail -n 1 "$w/sys/usr/sbin/policy-rc.d")" = "exit 101" ] || wrong "the administrator's policy-rc.d has changed"
}

# What is changed for the time of an installation is put back if that fails.
failed_install() {
	machine
	: >"$w/broken-server"
	run 1
	says "could not install postgresql-15"
	gone "$w/sys/usr/sbin/policy-rc.d"
	grep -qx '#create_main_cluster = true' "$w/sys/etc/postgresql-common/createcluster.conf" || wrong "createcluster.conf is not as it was"
	gone "$w/sys/etc/postgresql-common/createcluster.conf.dormouse"
	not fetch-kernel
}

retried_once() {
	machine
	: >"$w/broken-once"
	run 0
	[ "$(grep -c '^update$' "$w/log")" = 2 ] || wrong "no second update"
}

kernel_with_old_lists() {
	complete_machine
	rm -r "$w/tree/.cache"
	: >"$w/no-kernel"
	run 0
	[ "$(grep -c '^fetch-kernel$' "$w/log")" = 2 ] || wrong "the kernel was not tried twice"
	did '^update$'
}

# Only disks for clouds need the stub.
no_stub() {
	machine
	: >"$w/no-stub"
	run 0
	says "going on without it"
	says "all that is needed is here"
	run 1 --test
	rm "$w/no-stub"
	run 0
	says "fetching the EFI stub"
	run 0
	silent "EFI stub"
}

kernel_without_lists() {
	complete_machine
	rm -r "$w/tree/.cache" "$w/sys/var/lib/apt/lists"
	mkdir "$w/sys/var/lib/apt/lists"
	run 0
	did '^update$'
	rm -r "$w/tree/.cache/kernel.newest" "$w/sys/var/lib/apt/lists"
	run 0 # no newer one is known
	not .
}

kernel_after_update() {
	complete_machine
	touch -d '+10 seconds' "$w/sys/var/lib/apt/lists"
	run 0
	did '^fetch-kernel$'
	: >"$w/no-kernel"
	run 0
	says "going on with the kernel that is there"
}

go_fetches_itself() {
	complete_machine
	golang 1.21.0 auto
	run 0
	says "will fetch Go 1.26.0 by itself"
	gone "$w/tree/.cache/go"
}

go_too_old() {
	for old in "1.25.9 local" "1.26rc1 local" "1.20.14 auto"; do
		complete_machine
		# Its two words are two arguments.
		# shellcheck disable=SC2086
		golang $old
		run 1 --check
		says "go: Go 1.26.0 compiles Dormouse"
		go_archive 1.26.0 right
		run 0
		did '^curl https://go.dev/dl/go1.26.0.linux-amd64.tar.gz$'
		there "$w/tree/.cache/go/bin/go"
		run 0
		not curl
		run 0 --check
	done
}

go_replaced() {
	complete_machine
	rm "$w/bin/go"
	go_archive 1.26.0 right
	run 0
	printf 'module m\n\ngo 1.26\ntoolchain go1.27.1\n' >"$w/tree/go.mod"
	go_archive 1.27.1 right
	run 0
	did '^curl https://go.dev/dl/go1.27.1.linux-amd64.tar.gz$'
	[ "$("$w/tree/.cache/go/bin/go" | head -n 1)" = go1.27.1 ] || wrong "Go was not replaced"
	[ "$(find "$w/tree/.cache" -maxdepth 1 -name 'go*' | wc -l)" = 1 ] || wrong "something is left beside .cache/go"
}

go_bad_checksum() {
	complete_machine
	rm "$w/bin/go"
	for sum in 0000000000000000000000000000000000000000000000000000000000000000 '<html>' ''; do
		go_archive 1.26.0 "$sum"
		run 1
		says checksum
		[ -z "$(find "$w/tree/.cache" -name 'go*')" ] || wrong "something is left in .cache"
	done
}

go_offline() {
	complete_machine
	rm "$w/bin/go"
	go_archive 1.26.0 right
	: >"$w/offline"
	run 1
	says "curl -fL https://go.dev/dl/go1.26.0.linux-amd64.tar.gz | tar -xz --strip-components=1 -C '$w/tree/.cache/go'"
	[ "$(grep -c curl "$w/log")" = 2 ] || wrong "the download was not tried twice"
	[ -z "$(find "$w/tree/.cache" -name 'go*')" ] || wrong "something is left in .cache"
}

not_debian() {
	machine
	rm "$w/bin/apt-get"
	run 1
	says "neither Debian nor Ubuntu"
	says "  qemu-utils: "
}

bad_option() {
	machine
	run 1 --tests
	says "unknown option --tests"
}

n=0 failed=''
for name in missing_packages all_there check_reports no_sudo sudo_without_terminal sudo_wants_password \
	declined agreed said_yes_before old_postgres old_qemu existing_cluster existing_policy failed_install \
	retried_once kernel_with_old_lists kernel_without_lists kernel_after_update no_stub go_fetches_itself go_too_old \
	go_replaced go_bad_checksum go_offline not_debian bad_option; do
	bad=''
	$name
	if [ -n "$bad" ]; then failed="$failed $name"; else echo "ok $name"; fi
done
[ -z "$failed" ] || {
	echo "failed:$failed"
	exit 1
}
