package main

import "strings"

// recipe says what is kept of a package, and how its program runs.
type recipe struct {
	program string
	// keep are further files of the package.
	keep []string
	// files are ours, by absolute path.
	files map[string]string
	// body is the manifest, less name, version and program.
	body string
}

func recipes() map[string]recipe {
	return map[string]recipe{
		"mosquitto": {
			program: "/usr/sbin/mosquitto",
			files: map[string]string{
				"/etc/mosquitto/mosquitto.conf": `# Listens on all addresses and lets anybody in: the guest has a network of its own.
listener 1883
allow_anonymous true
# There is no other user in the guest.
user root
# What is retained is written one second later at the latest.
persistence true
persistence_location /var/lib/mosquitto/
autosave_interval 1
log_dest stderr
connection_messages false
`,
				"/etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
				"/etc/group":         "root:x:0:\nnogroup:x:65534:\n",
				"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
			},
			body: `  "Args": ["-c", "/etc/mosquitto/mosquitto.conf"],
  "Ports": [{"Number": 1883, "Protocol": "tcp", "Name": "mqtt"}],
  "Health": {"Type": "tcp", "Port": 1883, "Timeout": "2s"},
  "Persist": ["/var/lib/mosquitto"],
  "Restart": "always",
  "MinMemory": "64MiB"
`,
		},
	}
}

// manifest returns package.manifest. A Debian version loses its epoch.
func (r recipe) manifest(name, version string) string {
	if _, after, ok := strings.Cut(version, ":"); ok {
		version = after
	}
	return "{\n  \"Name\": \"" + name + "\",\n  \"Version\": \"" + version + "\",\n  \"Program\": \"" + r.program + "\",\n" + r.body + "}\n"
}
