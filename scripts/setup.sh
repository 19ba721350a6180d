#!/bin/sh
# Usage: scripts/setup.sh [--check] [--test] [--packages]
#
# Puts in place what Dormouse needs on Debian or Ubuntu, and nothing that is
# there already: packages (with apt), Go as go.mod says (into .cache/go, where
# there is none), the distribution's kernel (into .cache/kernel) and its EFI stub
# (into .cache/efi; neither is installed). Says first what it installs and why, and asks before it uses sudo.
#
#   --check     only tells what is missing; exits with 1 if anything is
#   --test      also what the tests need
#   --packages  only the packages: what an administrator runs, as root
#
# DORMOUSE_YES=1 in the environment answers yes. Installing PostgreSQL neither
# makes nor starts a cluster of the system's, nor touches one that is there:
# Dormouse starts a private one in its data directory.
set -eu

# Keep the same as internal/devpg and internal/provider/kvm.
oldest_postgres=15
oldest_qemu=7.2

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# A prefix for the machine's own files, which only the test of this script sets.
sys=${DORMOUSE_SETUP_SYSROOT:-}
# An ordinary user of Debian's does not have these, where mkfs.ext4 lies.
PATH=$PATH:$sys/usr/local/sbin:$sys/usr/sbin:$sys/sbin
export PATH

say() { printf '%s\n' "setup: $*"; }
die() {
	printf '%s\n' "setup: $*" >&2
	exit 1
}

check='' testing='' only_packages='' told=''
for option; do
	case $option in
	--check) check=1 ;;
	--test) testing=1 ;;
	--packages) only_packages=1 ;;
	--told) told=1 ;; # from this script itself, which has said what is missing
	*) die "unknown option $option: usage: scripts/setup.sh [--check] [--test] [--packages]" ;;
	esac
done

# What is to be removed or put back, whatever happens.
temporary='' held=''
cleanup() {
	[ -z "$held" ] || release_clusters
	[ -z "$temporary" ] || rm -rf "$temporary"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

has() { command -v "$1" >/dev/null 2>&1; }

# number VERSION prints it as one that compares: 1.26.3 is 1026003, and 1.26rc1
# one less than 1.26.
number() {
	rest=$1.
	major=${rest%%.*} rest=${rest#*.}
	minor=${rest%%.*} rest=${rest#*.}
	patch=${rest%%.*} before=0
	case $minor in *rc* | *beta*) before=1 ;; esac
	minor=${minor%%[!0-9]*} patch=${patch%%[!0-9]*}
	echo $((${major:-0} * 1000000 + ${minor:-0} * 1000 + ${patch:-0} - before))
}

at_least() { [ "$(number "$1")" -ge "$(number "$2")" ]; }

# ---- packages ----

# want PACKAGE WHY: it is to be installed. need PACKAGE WHY COMMAND...: unless the commands are there.
want() {
	packages="$packages $1"
	reasons="$reasons
  $1: $2"
}
need() {
	package=$1 why=$2
	shift 2
	for program; do
		has "$program" || {
			want "$package" "$why"
			return
		}
	done
}

# postgres_in DIR...: whether one of them holds a server that is new enough.
postgres_in() {
	for dir; do
		if ! [ -x "$dir/initdb" ] || ! [ -x "$dir/postgres" ]; then continue; fi
		major=$("$dir/postgres" --version 2>/dev/null | sed -n 's/.*(PostgreSQL) \([0-9]*\).*/\1/p')
		if [ "${major:-0}" -ge $oldest_postgres ]; then return 0; fi
	done
	return 1
}

# The places where internal/devpg looks.
has_postgres() {
	postgres_in "$sys"/usr/lib/postgresql/*/bin "$sys"/usr/pgsql-*/bin "$sys/usr/local/pgsql/bin" && return
	! has pg_config || ! postgres_in "$(pg_config --bindir 2>/dev/null)" || return 0
	has postgres && postgres_in "$(dirname "$(readlink -f "$(command -v postgres)")")"
}

# look sets packages (the missing ones; postgresql stands for a server's package) and reasons.
look() {
	packages='' reasons=''
	need qemu-system-x86 "QEMU runs the virtual machines" qemu-system-x86_64
	if [ -z "$packages" ]; then
		qemu=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.*version \([0-9.]*\).*/\1/p')
		at_least "$qemu" $oldest_qemu ||
			want qemu-system-x86 "QEMU $oldest_qemu or newer runs the virtual machines; here is ${qemu:-one that does not start}"
	fi
	need qemu-utils "qemu-img makes and reads disks of virtual machines" qemu-img
	need squashfs-tools "mksquashfs makes the images that virtual machines boot" mksquashfs unsquashfs
	need e2fsprogs "makes, checks and grows the tenants' volumes" mkfs.ext4 e2fsck resize2fs
	need iproute2 "ip shows the network of the virtual machines" ip
	need curl "downloads Go, and asks whether a workspace answers" curl
	[ -s "$sys/etc/ssl/certs/ca-certificates.crt" ] ||
		want ca-certificates "whom to trust when Go and its modules are downloaded"
	has_postgres ||
		want postgresql "PostgreSQL $oldest_postgres or newer keeps the state; only its programs: no cluster of the system's is made or started"
	[ -n "$testing" ] || return 0
	need mosquitto-clients "the end-to-end test publishes with a stock MQTT client" mosquitto_pub mosquitto_sub
	need redis-tools "and stores with a stock redis client" redis-cli
	need shellcheck "checks the shell scripts" shellcheck
	need dosfstools "fsck.fat checks the EFI system partitions of disks" fsck.fat
	need mtools "reads EFI system partitions back" mcopy mdir minfo
	need fdisk "sfdisk checks the partition tables of disks" sfdisk
	[ -s "$sys/usr/share/ovmf/OVMF.fd" ] ||
		want ovmf "the firmware that boots disks for clouds in the tests"
}

has_lists() {
	set -- "$sys"/var/lib/apt/lists/*_Packages*
	[ -e "$1" ]
}

apt() {
	DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C apt-get -q -o DPkg::Lock::Timeout=300 \
		-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# update gets the package lists. DPkg::Lock::Timeout does not hold for their
# lock, which a fresh machine's daily update may have.
update() {
	say "apt-get update"
	tries=0
	until apt update 2>"$temporary/errors"; do
		tries=$((tries + 1))
		if grep -q 'Could not get lock' "$temporary/errors" && [ $tries -lt 60 ]; then
			[ $tries -gt 1 ] || say "another program updates the package lists: waiting up to 5 minutes"
			sleep 5
		elif [ $tries -ge 2 ]; then
			cat "$temporary/errors" >&2
			# A broken source of third parties need not concern us.
			say "apt-get update failed (see above): going on with the package lists that are there"
			return
		fi
	done
}

# install PACKAGE...: tries twice, because mirrors fail and change meanwhile.
install() {
	apt install -y --no-install-recommends --no-remove "$@" && return
	say "that failed: once more with new package lists"
	update
	apt install -y --no-install-recommends --no-remove "$@" || die "apt-get could not install $*: its message is above"
}

candidate() {
	LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \(.*\)$/\1/p' | grep -v '(none)'
}

# old_distribution dies where the distribution's newest is too old, before anything is installed.
old_distribution() {
	case " $packages " in *" qemu-system-x86 "*)
		version=$(candidate qemu-system-x86) || version=none
		version=${version#*:}
		if [ "$version" != none ] && ! at_least "${version%%[!0-9.]*}" $oldest_qemu; then
			die "apt knows QEMU ${version%%[!0-9.]*}, and $oldest_qemu or newer is needed: use Debian 12, Ubuntu 24.04, or newer"
		fi
		;;
	esac
	case " $packages " in *" postgresql "*)
		version=$(candidate postgresql) || die "apt knows no package postgresql: see that /etc/apt/sources.list names the distribution's main archive"
		postgres_major=${version%%[!0-9]*}
		if [ "${postgres_major:-0}" -lt $oldest_postgres ]; then
			die "apt knows PostgreSQL $postgres_major, and $oldest_postgres or newer is needed. PostgreSQL's own archive has it; to add that, run
  sudo sh -c 'apt-get install -y postgresql-common && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y'
and then this again"
		fi
		;;
	esac
}

# While a server's package is installed, hold_clusters keeps it from starting
# clusters and hold_creation from making "main"; release_clusters takes both back.
createcluster=$sys/etc/postgresql-common/createcluster.conf
policy=$sys/usr/sbin/policy-rc.d
mark="put here by Dormouse's scripts/setup.sh while it installs"
hold_clusters() {
	release_clusters # what a run left that was killed
	held=1
	# Concerns nothing else, and nothing at all once this process is gone. One
	# that is there already stays: it is the administrator's.
	if [ ! -e "$policy" ]; then
		cat >"$policy.new" <<-TXT
			#!/bin/sh
			# $mark
			kill -0 $$ 2>/dev/null || exit 0
			case \$1 in postgresql*) exit 101 ;; esac
			exit 0
		TXT
		chmod 755 "$policy.new"
		mv "$policy.new" "$policy"
	fi
}
hold_creation() {
	if [ -e "$createcluster" ]; then
		cp -p "$createcluster" "$createcluster.dormouse"
	else
		mkdir -p "${createcluster%/*}"
		: >"$createcluster"
	fi
	# The last line that sets it counts.
	printf '\n%s\n' "create_main_cluster = false # $mark" >>"$createcluster"
}
release_clusters() {
	if [ -e "$createcluster.dormouse" ]; then
		mv -f "$createcluster.dormouse" "$createcluster"
	elif grep -qs "$mark" "$createcluster"; then
		rm -f "$createcluster"
	fi
	if grep -qs "$mark" "$policy"; then rm -f "$policy"; fi
	rm -f "$policy.new"
	held=''
}

# as_root_packages is what needs root, all of it.
as_root_packages() {
	temporary=$(mktemp -d)
	update
	[ -n "$packages" ] || return 0
	old_distribution
	others='' server=''
	for package in $packages; do
		case $package in
		# The package of one version: the one without would bring the next version's cluster with an upgrade.
		postgresql) server=postgresql-$postgres_major ;;
		*) others="$others $package" ;;
		esac
	done
	# Every word is a package's name.
	# shellcheck disable=SC2086
	[ -z "$others" ] || install $others
	if [ -n "$server" ]; then
		hold_clusters
		[ -e "$createcluster" ] || install postgresql-common
		hold_creation
		install "$server"
		release_clusters
	fi
	rm -rf "$temporary"
	temporary=''
}

# get_packages installs what look found (or only updates the package lists), as whoever may.
updated=''
get_packages() {
	updated=1
	has apt-get || die "this is neither Debian nor Ubuntu: install these with the system's own tools:$reasons"
	if [ -z "$packages" ]; then
		reasons=" none, but their lists (apt-get update), to find the distribution's kernel"
	fi
	[ -n "$told" ] || say "these packages are to be installed:$reasons"
	if [ "$(id -u)" -eq 0 ]; then
		as_root_packages
	else
		set -- sh "$root/scripts/setup.sh" --packages --told ${testing:+--test}
		refused="an administrator (root) runs this, and then you this again:
  sh '$root/scripts/setup.sh' --packages${testing:+ --test}"
		has sudo || die "there is no sudo: $refused"
		if [ -t 0 ]; then
			if [ "${DORMOUSE_YES:-}" != 1 ]; then
				printf 'Do that with sudo? [Y/n] '
				read -r reply || reply=no
				case $reply in '' | [yY]*) ;; *) die "nothing was installed. To do it otherwise, $refused" ;; esac
			fi
			sudo true || die "sudo does not let you: $refused"
		else
			[ "${DORMOUSE_YES:-}" = 1 ] || say "there is no terminal to ask at: going on with sudo"
			sudo -n true || die "sudo wants a password, and there is no terminal: $refused"
		fi
		sudo "$@" || die "installing the packages failed: see above"
	fi
	look
	[ -z "$packages" ] || die "installed, and still not found:$reasons"
}

# ---- Go ----

# look_go sets go_missing: why Go has to be fetched, or nothing; and go_version.
look_go() {
	go_missing='' go_version=''
	go_wanted=$(sed -n 's/^toolchain go//p' "$root/go.mod")
	[ -n "$go_wanted" ] || go_wanted=$(sed -n 's/^go //p' "$root/go.mod")
	# The Makefile puts this one in front.
	go=$root/.cache/go/bin/go
	[ -x "$go" ] || go=$(command -v go) || {
		go_missing="Go $go_wanted compiles Dormouse; there is none here"
		return
	}
	# Outside of the module, where go does not fetch another version in order to answer.
	answer=$(cd / && "$go" env GOVERSION GOTOOLCHAIN 2>/dev/null) || answer=''
	{
		read -r go_version || true
		read -r toolchain || true
	} <<-TXT
		$answer
	TXT
	go_version=${go_version#*go} go_version=${go_version%% *}
	at_least "$go_version" "$go_wanted" && return
	case $toolchain in auto | *+auto) at_least "$go_version" 1.21 && return ;; esac
	go_missing="Go $go_wanted compiles Dormouse; $go is ${go_version:-broken}"
	! at_least "$go_version" 1.21 || go_missing="$go_missing, and may not fetch another (GOTOOLCHAIN=$toolchain)"
}

# ---- the kernel ----

kernels=$root/.cache/kernel
# The names of the packages that apt knew when this was written.
stamp=$root/.cache/kernel.newest

# has_kernel: whether there is one, be it old.
has_kernel() {
	set -- "$kernels"/linux-image-*.deb
	[ -e "$1" ]
}

# has_newest_kernel: whether it is the newest that apt knows. apt itself takes
# seconds to tell on some machines, and is asked only when it may know more.
has_newest_kernel() {
	has_kernel || return
	has_lists || return 0
	[ -s "$stamp" ] || return
	while read -r name; do
		[ -f "$kernels/$name" ] || return
	done <"$stamp"
	set -- "$sys/var/lib/apt/lists" "$sys/etc/apt/sources.list" "$sys/etc/apt/sources.list.d"
	[ -z "$(find "$@" -prune -newer "$stamp" 2>/dev/null)" ]
}

fetch_kernel() {
	paths=$("$root/scripts/fetch-kernel.sh" "$kernels") || return
	printf '%s\n' "$paths" | sed 's|.*/||' >"$stamp.$$"
	mv -f "$stamp.$$" "$stamp"
}

get_kernel() {
	say "fetching the distribution's kernel into .cache/kernel"
	! fetch_kernel || return 0
	if has_kernel; then
		say "going on with the kernel that is there"
	elif [ -z "$updated" ]; then
		get_packages # the lists may be old, and name what is gone
		fetch_kernel || exit 1
	else
		exit 1
	fi
}

# The EFI stub of disks that boot by themselves: nothing else needs it.
has_stub() {
	for stub in "$root"/.cache/efi/*.efi.stub; do
		if [ -s "$stub" ]; then return; fi
	done
	return 1
}
get_stub() {
	! has_stub || return 0
	say "fetching the EFI stub of disks for clouds into .cache/efi"
	if "$root/scripts/fetch-efi-stub.sh" "$root/.cache/efi" >/dev/null; then return; fi
	[ -z "$testing" ] || exit 1
	say "going on without it: until scripts/fetch-efi-stub.sh .cache/efi works, no such disks can be made"
}

# ---- all of it ----

look
if [ -n "$only_packages" ]; then
	[ -z "$check" ] || die "--check and --packages exclude one another"
	[ "$(id -u)" -eq 0 ] || die "--packages is for root; run scripts/setup.sh, which asks for sudo"
	if [ -n "$packages" ] || ! has_lists; then get_packages; fi
	exit 0
fi
look_go
if [ -n "$check" ]; then
	has_kernel || reasons="$reasons
  kernel: the distribution's kernel boots the virtual machines; .cache/kernel holds none"
	[ -z "$go_missing" ] || reasons="$reasons
  go: $go_missing"
	has_stub || reasons="$reasons
  EFI stub: systemd's starts the disks that are exported; .cache/efi holds none"
	[ -z "$reasons" ] || die "missing:$reasons
scripts/setup.sh${testing:+ --test} gets it"
	say "nothing is missing"
	exit 0
fi
if [ -n "$packages" ] || { ! has_kernel && ! has_lists; }; then get_packages; fi
if [ -n "$go_missing" ]; then
	say "$go_missing: fetching it into .cache/go"
	"$root/scripts/fetch-go.sh" "$go_wanted" "$root/.cache/go"
elif ! at_least "$go_version" "$go_wanted"; then
	say "Go $go_version is here, and will fetch Go $go_wanted by itself"
fi
has_newest_kernel || get_kernel
get_stub
say "all that is needed is here"
