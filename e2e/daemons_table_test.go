package e2e

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/require"
)

// daemons are those of examples/daemons.
func daemons() []daemon {
	return []daemon{
		{name: "mosquitto", always: true, clients: []string{"mosquitto_pub", "mosquitto_sub"}, from: "mosquitto-clients",
			memory: "96MiB", disk: "64MiB", work: retained, again: stillRetained},
		{name: "postgresql", always: true, clients: []string{"psql", "pg_isready"}, from: "postgresql-client", env: []string{"POSTGRES_PASSWORD=an elephant's"},
			memory: "128MiB", disk: "256MiB",
			work: func(d *tenant) {
				d.await(5432, "HOST:PORT - accepting connections\n", "pg_isready", "-h", "HOST", "-p", "PORT")
				require.Equal(d, "5000\n", d.psql("CREATE TABLE note (id int PRIMARY KEY, text text); INSERT INTO note SELECT i, 'note ' || i FROM generate_series(1, 5000) i; SELECT count(*) FROM note"))
			},
			again: func(d *tenant) {
				d.await(5432, "HOST:PORT - accepting connections\n", "pg_isready", "-h", "HOST", "-p", "PORT")
				require.Equal(d, "note 4711|postgres\n", d.psql("SELECT text, current_user FROM note WHERE id = 4711"))
				_, err := d.try(5432, "", "psql", "postgresql://postgres:wrong@HOST:PORT/postgres", "-c", "SELECT 1")
				require.ErrorContains(d, err, "password authentication failed")
			}},
		{name: "redis", always: true, clients: []string{"redis-cli"}, from: "redis-tools",
			memory: "96MiB", disk: "64MiB",
			work: func(d *tenant) {
				require.Equal(d, "OK\n", d.redis("SET", "tenant", "carol"))
				for i := 1; i <= 3; i++ {
					require.Equal(d, i, count(d.T, d.redis("INCR", "visits")))
				}
			},
			again: func(d *tenant) {
				d.await(6379, "PONG\n", "redis-cli", "-e", "-h", "HOST", "-p", "PORT", "PING")
				require.Equal(d, "carol\n", d.redis("GET", "tenant"))
				require.Equal(d, 4, count(d.T, d.redis("INCR", "visits")))
			}},
		{name: "mariadb", clients: []string{"mariadb"}, from: "mariadb-client", env: []string{"MARIADB_ROOT_PASSWORD=a-sea-lion"},
			memory: "192MiB", disk: "256MiB",
			work: func(d *tenant) {
				require.Equal(d, "1000\n", d.mariadb("CREATE DATABASE shop; USE shop; CREATE TABLE note (id int PRIMARY KEY, text varchar(50)) ENGINE=InnoDB; INSERT INTO note SELECT seq, concat('note ', seq) FROM seq_1_to_1000; SELECT count(*) FROM note"))
			},
			again: func(d *tenant) {
				require.Equal(d, "note 471\n", d.mariadb("SELECT text FROM shop.note WHERE id = 471"))
				_, err := d.try(3306, "", "mariadb", "-h", "HOST", "-P", "PORT", "-u", "root", "--password=wrong", "-e", "SELECT 1")
				require.ErrorContains(d, err, "Access denied")
			}},
		{name: "nginx", clients: []string{"curl"}, from: "curl",
			memory: "96MiB", disk: "64MiB",
			work: func(d *tenant) {
				d.http(80, "/notes/one.txt", "--request", "PUT", "--data-binary", "a note of carol's")
				require.Equal(d, "a note of carol's", d.http(80, "/notes/one.txt"))
			},
			again: func(d *tenant) { require.Equal(d, "a note of carol's", d.http(80, "/notes/one.txt")) }},
		{name: "memcached", clients: []string{"nc"}, from: "netcat-openbsd", memory: "96MiB",
			work: func(d *tenant) {
				require.Equal(d, "STORED\r\nVALUE tenant 0 5\r\ncarol\r\nEND\r\n", d.say(11211, "set tenant 0 0 5\r\ncarol\r\nget tenant\r\nquit\r\n", "nc", "HOST", "PORT"))
			},
			again: func(d *tenant) {
				require.Equal(d, "END\r\n", d.say(11211, "get tenant\r\nquit\r\n", "nc", "HOST", "PORT"), "a cache that is restarted is empty")
			}},
		{name: "lighttpd", clients: []string{"curl"}, from: "curl", memory: "96MiB", work: lighttpd, again: lighttpd},
		{name: "haproxy", clients: []string{"curl"}, from: "curl", memory: "96MiB", work: haproxy, again: haproxy},
		{name: "unbound", clients: []string{"dig"}, from: "bind9-dnsutils", memory: "96MiB", work: unbound, again: unbound},
		{name: "stunnel", clients: []string{"openssl"}, from: "openssl", env: []string{"STUNNEL_PSK=" + stunnelKey}, memory: "96MiB", work: stunnel, again: stunnel},
		{name: "rsync", clients: []string{"rsync"}, from: "rsync", memory: "96MiB", disk: "64MiB",
			work: func(d *tenant) {
				file := filepath.Join(d.TempDir(), "note.txt")
				require.NoError(d, os.WriteFile(file, []byte("a note of carol's"), 0o644))
				d.rsync(file, "rsync://HOST:PORT/files/")
			},
			again: func(d *tenant) {
				back := filepath.Join(d.TempDir(), "back.txt")
				d.rsync("rsync://HOST:PORT/files/note.txt", back)
				body, err := os.ReadFile(back)
				require.NoError(d, err)
				require.Equal(d, "a note of carol's", string(body))
			}},
		{name: "beanstalkd", clients: []string{"nc"}, from: "netcat-openbsd", memory: "96MiB", disk: "64MiB",
			work: func(d *tenant) {
				require.Contains(d, d.say(11300, "use mail\r\nput 1 0 60 5\r\nhello\r\nquit\r\n", "nc", "HOST", "PORT"), "INSERTED 1\r\n")
			},
			again: func(d *tenant) {
				require.Contains(d, d.say(11300, "watch mail\r\nreserve-with-timeout 5\r\ndelete 1\r\nquit\r\n", "nc", "HOST", "PORT"), "RESERVED 1 5\r\nhello\r\nDELETED\r\n")
			}},
	}
}

func (d *tenant) psql(sql string) string {
	d.Helper()
	return d.say(5432, "", "psql", "postgresql://postgres:an%20elephant%27s@HOST:PORT/postgres", "-v", "ON_ERROR_STOP=1", "-qAt", "-c", sql)
}

func (d *tenant) redis(args ...string) string {
	d.Helper()
	return d.say(6379, "", append([]string{"redis-cli", "-e", "-h", "HOST", "-p", "PORT"}, args...)...)
}

func (d *tenant) mariadb(sql string) string {
	d.Helper()
	return d.say(3306, "", "mariadb", "--no-defaults", "-h", "HOST", "-P", "PORT", "--protocol=tcp", "-u", "root", "--password=a-sea-lion", "-N", "-B", "-e", sql)
}

func lighttpd(d *tenant) {
	require.Contains(d, d.http(80, "/"), "a tenant of its own")
	require.Contains(d, d.http(80, "/server-status?auto"), "Total Accesses:")
	_, err := d.try(80, "", "curl", "-sSf", "http://HOST:PORT/nothing")
	require.ErrorContains(d, err, "404")
}

func haproxy(d *tenant) {
	answers := d.http(80, "/") + d.http(80, "/") + d.http(80, "/") + d.http(80, "/")
	require.Equal(d, 2, strings.Count(answers, "one\n"), answers)
	require.Equal(d, 2, strings.Count(answers, "two\n"), answers)
	require.Contains(d, d.http(8404, "/;csv"), "servers,BACKEND,")
}

func unbound(d *tenant) {
	dig := func(args ...string) string {
		return d.say(53, "", append([]string{"dig", "@HOST", "-p", "PORT", "+tcp", "+short", "+time=10"}, args...)...)
	}
	require.Equal(d, "192.0.2.10\n", dig("www.tenant.example", "A"))
	require.Equal(d, "10 mail.tenant.example.\n", dig("tenant.example", "MX"))
	require.Empty(d, dig("nobody.tenant.example", "A"))
}

const stunnelKey = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func stunnel(d *tenant) {
	s := func(key string) (string, error) {
		return d.try(8443, "hello\n", "timeout", "20", "openssl", "s_client", "-connect", "HOST:PORT", "-psk_identity", "tenant", "-psk", key, "-quiet")
	}
	said, err := s(stunnelKey)
	require.NoError(d, err)
	require.Contains(d, said, "hello\n")
	_, err = s(strings.Repeat("00", 32))
	require.Error(d, err, "with another key")
}

func (d *tenant) rsync(args ...string) {
	d.Helper()
	d.say(873, "", append([]string{"rsync", "--timeout=20"}, args...)...)
}
