#!/bin/sh
# Makes the package directory OUTDIR: what lies here and an initialised data directory,
# with which every volume of the package begins.
# Nanos runs no scripts, so what ../mariadb does at the first boot is done here, by the same
# package of Debian's, unpacked into a throw-away directory. Nothing is installed.
# The password of root is MARIADB_ROOT_PASSWORD, the same for all tenants until ALTER USER changes it.
# Usage: MARIADB_ROOT_PASSWORD=... examples/daemons/mariadb-nanos/make-data.sh OUTDIR
set -eu

if [ $# -ne 1 ]; then
	echo "usage: $0 OUTDIR" >&2
	exit 2
fi
case ${MARIADB_ROOT_PASSWORD:-} in
'' | *[\'\\]*)
	echo "$0: give MARIADB_ROOT_PASSWORD, without quotes and backslashes" >&2
	exit 2
	;;
esac
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
chmod 755 "$temp" # for the user that the server runs as

# An empty list of what is installed has apt fetch everything that is needed.
mkdir -p "$temp/archives/partial" "$temp/root" "$temp/data/mysql" "$temp/tmp"
: >"$temp/status"
apt-get --quiet=2 --download-only --yes --no-install-recommends --option Debug::NoLocking=true --option APT::Sandbox::User= \
	--option Dir::State::status="$temp/status" --option Dir::Cache::archives="$temp/archives" install mariadb-server-core >&2
for deb in "$temp"/archives/*.deb; do
	dpkg-deb --extract "$deb" "$temp/root"
done

# The packages' own loader and libraries: what this machine has does not matter.
set -- "$temp/root/lib64/ld-linux-x86-64.so.2" --library-path "$temp/root/lib/x86_64-linux-gnu:$temp/root/usr/lib/x86_64-linux-gnu" "$temp/root/usr/sbin/mariadbd"
if [ "$(id -u)" = 0 ]; then
	chown -R 65534:65534 "$temp/data" "$temp/tmp"
	set -- setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
fi
sql=$temp/root/usr/share/mysql
{
	echo "use mysql;"
	echo "set @auth_root_socket = NULL, @skip_auth_anonymous = 1;"
	cat "$sql/mysql_system_tables.sql" "$sql/mysql_system_tables_data.sql" "$sql/maria_add_gis_sp_bootstrap.sql"
	echo "FLUSH PRIVILEGES;"
	echo "CREATE OR REPLACE USER 'root'@'%' IDENTIFIED BY '$MARIADB_ROOT_PASSWORD';"
	echo "GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;"
} | "$@" --defaults-file="$here/../mariadb/sysroot/etc/mysql/tenant.cnf" --datadir="$temp/data" --tmpdir="$temp/tmp" \
	--lc-messages-dir="$temp/root/usr/share/mysql" --character-sets-dir="$temp/root/usr/share/mysql/charsets" --plugin-dir="$temp/root/usr/lib/mysql/plugin" \
	--bootstrap --silent-startup >&2

rm -rf "$out/sysroot"
mkdir -p "$out/sysroot/var/lib/mysql"
cp "$here/package.manifest" "$here/debs" "$out/"
cp -R "$temp/data" "$out/sysroot/var/lib/mysql/data"
