# Runs a throw-away Postgres until standard input ends, then removes it.
# Arguments: the directory to make its directory in, the server's binaries, the
# socket directory of a server to be a standby of ("" for none), and
# settings as lines of postgresql.conf. Prints "ready DIRECTORY" or what failed.
base=$1 bin=$2 primary=$3
shift 3

server=
dir=$(mktemp -d "$base/dormouse-pgtest-XXXXXX") || exit 1
end() {
	if [ -n "$server" ]; then
		kill -QUIT "$server" 2>/dev/null
		wait "$server" # at most 5 s: then the postmaster kills what is left of it
	fi
	rm -rf "$dir"
}
trap end EXIT
trap 'exit 1' HUP INT TERM
trap '' PIPE # the test process may be gone when there is something to say

if [ -n "$primary" ]; then
	"$bin/pg_basebackup" -D "$dir/data" -h "$primary" -U dormouse -c fast -X stream -R -N
else
	"$bin/initdb" -D "$dir/data" -U dormouse -A trust -N --no-instructions -E UTF8 --locale=C
fi </dev/null >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
printf '%s\n' "unix_socket_directories = '$dir'" "$@" >>"$dir/data/postgresql.conf"

"$bin/postgres" -D "$dir/data" </dev/null >"$dir/log" 2>&1 &
server=$!
# The last line of the pid file is the server's state (src/include/utils/pidfile.h):
# "standby" is one that takes connections to read.
until grep -qs -e '^ready' -e '^standby' "$dir/data/postmaster.pid"; do
	kill -0 "$server" 2>/dev/null || { cat "$dir/log"; exit 1; }
	sleep 0.05
done
echo "ready $dir"

read -r _ # returns when the test process has ended
exit 0
