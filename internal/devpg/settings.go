package devpg

import (
	"maps"
	"slices"
)

// arguments are the server's command line. Settings stand here and not in
// postgresql.conf, so that a new version of ours takes effect with the next start.
func arguments(dataDir, socket string, bin Installed, who account, extra map[string]string) []string {
	set := map[string]string{
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": socket,
		"unix_socket_permissions": "0700",
		"fsync":                   "on",
		"synchronous_commit":      "on",
		"full_page_writes":        "on",
		"max_connections":         "200",
		"shared_buffers":          "64MB",
		"max_wal_size":            "512MB",
		// No statement of ours gains from them, and both make the tail of a latency longer.
		"max_parallel_workers_per_gather": "0",
		"jit":                             "off",
		"timezone":                        "UTC",
		"log_timezone":                    "UTC",
		"log_line_prefix":                 "%m [%p] ",
		"log_checkpoints":                 "off",
		"logging_collector":               "off",
		"cluster_name":                    "dormouse",
	}
	if !who.switched {
		// logind removes the POSIX shared memory of a user who logs out (RemoveIPC=
		// in logind.conf(5)), under the feet of what still runs.
		set["dynamic_shared_memory_type"] = "mmap"
	}
	if bin.Library("pg_stat_statements") {
		set["shared_preload_libraries"] = "pg_stat_statements"
		set["pg_stat_statements.track"] = "all"
	}
	maps.Copy(set, extra)
	args := []string{"-D", dataDir}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		args = append(args, "-c", k+"="+set[k])
	}
	return args
}
