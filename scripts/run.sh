#!/bin/sh
# make run and make down: starts the control plane in the background with the
# example installation, and stops it again.
# Usage: scripts/run.sh up|down|clean
set -eu
cd "$(dirname "$0")/.."

if [ -n "${DORMOUSE_DATA_DIR:-}" ]; then
	data=$DORMOUSE_DATA_DIR
elif [ "$(id -u)" = 0 ]; then
	data=/var/lib/dormouse
else
	data=${XDG_DATA_HOME:-$HOME/.local/share}/dormouse
fi
listen=${DORMOUSE_LISTEN:-127.0.0.1:8075}
gateway=${DORMOUSE_GATEWAY_LISTEN:-127.0.0.1:8065}
export DORMOUSE_SERVER="${DORMOUSE_SERVER:-http://$listen}"
log=$data/provisioner.log
name=hello

say() { printf '\n%s\n' "== $*"; }
die() { printf '%s\n' "error: $*" >&2; exit 1; }

# running prints the process ID of the provisioner that has the data directory.
running() {
	pid=$(cat "$data/provisioner.lock" 2>/dev/null) || return 1
	[ -n "$pid" ] && [ -e "/proc/$pid/exe" ] || return 1
	case $(readlink "/proc/$pid/exe") in
	*/provisioner | *"/provisioner (deleted)") printf '%s\n' "$pid" ;;
	*) return 1 ;;
	esac
}

# A proxy in the environment must not be asked for what is on this machine.
ready() { curl -fsS --noproxy '*' --max-time 2 -o /dev/null "$DORMOUSE_SERVER/readyz" 2>/dev/null; }

start() {
	[ -x bin/provisioner ] || die "bin/provisioner is not there: run make build, then this again"
	child=
	if running >/dev/null; then
		say "the control plane runs already (process $(running))"
	else
		say "starting the control plane (log: $log)"
		mkdir -p "$data"
		chmod 755 "$data"
		# A session of its own: closing this terminal does not stop it.
		setsid bin/provisioner server --dev --data-dir "$data" --listen "$listen" --gateway-listen "$gateway" \
			--kernel-packages "$PWD/.cache/kernel" >>"$log" 2>&1 </dev/null &
		child=$!
	fi
	tries=0
	until ready; do
		tries=$((tries + 1))
		if [ $tries -gt 600 ] || ! { [ -n "$child" ] && kill -0 "$child" 2>/dev/null || running >/dev/null; }; then
			tail -n 15 "$log" >&2
			die "the control plane did not start; its last lines are above. bin/provisioner doctor tells what is missing"
		fi
		sleep 0.2
	done
}

cluster() {
	if ! bin/cloudctl cluster get local -o json >/dev/null 2>&1; then
		say "registering this machine as the KVM cluster 'local'"
		bin/cloudctl cluster create local --provider kvm --wait >/dev/null
	fi
}

# package puts the example's package into $ref.
package() {
	say "packaging the example application"
	version=1.0.0
	scripts/package-workspace.sh .cache/workspace "$version"
	code=0
	bin/cloudctl package create .cache/workspace --name workspace --version "$version" >/dev/null 2>.cache/package.err || code=$?
	if [ $code = 4 ]; then
		# That version exists with another content: the example was changed since.
		version=1.0.0-$(sha256sum .cache/workspace/workspace | cut -c1-8)
		scripts/package-workspace.sh .cache/workspace "$version"
		bin/cloudctl package create .cache/workspace --name workspace --version "$version" >/dev/null
	elif [ $code != 0 ]; then
		cat .cache/package.err >&2
		exit $code
	fi
	ref=workspace@$version
}

# active prints the ID of the operation under way on the installation.
active() {
	bin/cloudctl operation list --resource $name --state active -o json 2>/dev/null |
		sed -n 's/^ *"id": "\([0-9a-v]*\)".*/\1/p' | head -n 1
}

# installation brings the example to serve, whatever state it is in.
installation() {
	said='' tried='' looks=0
	while [ $looks -lt 300 ]; do
		looks=$((looks + 1))
		# The installation's own state is the first in the document.
		state=$(bin/cloudctl installation get $name -o json 2>/dev/null | sed -n 's/^ *"state": "\([a-z-]*\)".*/\1/p' | head -n 1) || state=
		case $state in
		'' | deleted)
			say "creating the installation '$name' in a virtual machine of its own"
			bin/cloudctl installation create $name --owner you --package "$ref" --wait >/dev/null
			return
			;;
		stable)
			[ -n "$said" ] || say "the installation '$name' is there"
			return
			;;
		hibernating)
			say "waking the installation '$name'"
			bin/cloudctl installation wake $name --wait >/dev/null
			return
			;;
		*-failed | exited | crash-looping)
			[ -z "$tried" ] || die "the installation '$name' is $state: see bin/cloudctl installation explain $name"
			# A failed deletion is finished by that; then it is created anew.
			say "the installation '$name' is $state: trying again"
			tried=1 said=1
			bin/cloudctl installation retry $name --wait >/dev/null
			;;
		*)
			[ "$said" = "$state" ] || say "the installation '$name' is $state: waiting for it"
			said=$state
			operation=$(active)
			# How it ends is seen by the next look. With no operation yet, that is soon.
			if [ -n "$operation" ]; then
				bin/cloudctl operation get "$operation" --wait >/dev/null || sleep 1
			else
				sleep 1
			fi
			;;
		esac
	done
	die "the installation '$name' stays $state: see bin/cloudctl installation explain $name"
}

# answer asks the URL as a browser would, and says what came.
answer() {
	url=$(bin/cloudctl installation get $name -o json | sed -n 's/^ *"url": "\([^"]*\)".*/\1/p' | head -n 1)
	host=${url#http://}
	tries=0
	# After a start it may take a moment until the adopted or resumed machine serves.
	until code=$(curl -sS --noproxy '*' --max-time 10 -o /dev/null -w '%{http_code}' --resolve "$host:127.0.0.1" "$url/" 2>/dev/null) && [ "$code" = 200 ]; do
		tries=$((tries + 1))
		[ $tries -lt 60 ] || die "$url answers $code: see bin/cloudctl installation explain $name, and $log"
		sleep 0.5
	done
	cat <<TXT

$url answers: $code

Open it in a browser, or try:
  bin/cloudctl installation list
  bin/cloudctl installation hibernate $name --wait     and open it in the browser again: that wakes it
  bin/cloudctl installation logs $name -f
Stop everything with: make down
TXT
}

up() {
	start
	cluster
	package
	installation
	answer
}

# leftover tells whether a provisioner that is gone has left something running.
# A file that a power cut left says nothing: the process must be there.
leftover() {
	pid=$(head -n 1 "$data/postgres/data/postmaster.pid" 2>/dev/null) || pid=
	if [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$(readlink -f "$data/postgres/data")" ]; then
		return 0
	fi
	for instance in "$data"/host/instances/*; do
		# The brackets keep grep from finding itself.
		if [ -e "$instance" ] && grep -qs "guest=dormouse[-]${instance##*/}" /proc/[0-9]*/cmdline; then return 0; fi
	done
	return 1
}

down() {
	if ! running >/dev/null; then
		if ! leftover; then
			say "nothing runs"
			return
		fi
		say "the control plane was killed; starting it once more, so that it stops what it left"
		start
	fi
	pid=$(running)
	say "stopping the virtual machines, the control plane (process $pid) and its database"
	kill -INT "$pid"
	tries=0
	while [ -e "/proc/$pid" ]; do
		tries=$((tries + 1))
		[ $tries -lt 600 ] || die "process $pid does not end; see $log"
		sleep 0.2
	done
}

clean() {
	down
	if [ -e "$data" ]; then
		# Not a directory of something else that DORMOUSE_DATA_DIR names by mistake.
		[ -e "$data/provisioner.lock" ] || [ -z "$(ls -A "$data")" ] ||
			die "$data is no data directory of Dormouse (it has no provisioner.lock): nothing was removed"
		if [ -t 0 ]; then
			printf 'Remove %s with all tenants'\'' data? [y/N] ' "$data"
			read -r reply
			case $reply in [yY]*) ;; *) die "nothing was removed" ;; esac
		fi
		rm -rf "$data"
	fi
	rm -rf bin .cache
	say "removed $data, bin and .cache; installed packages stay"
}

case ${1:-} in
up) up ;;
down) down ;;
clean) clean ;;
*) die "usage: scripts/run.sh up|down|clean" ;;
esac
