package rawdisk

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

// seedName is the seed's file in a tenant's directory.
const seedName = "seed.img"

// environmentPath is where the guest finds the installation's environment: a
// file as systemd's EnvironmentFile and shells read one.
const environmentPath = "/etc/dormouse/environment"

// maxEnvironment bounds what the seed carries, in bytes; above what an installation may have.
const maxEnvironment = 512 << 10

// Specialise implements imagebuilder.Specialiser: the tenant's part is the seed
// alone, readable by its owner only. What was written to the disk lies on the volume.
func (Kernel) Specialise(_ context.Context, imageDir string, t fleet.Tenant, dir string) (_ fleet.TenantFiles, err error) {
	if _, err := readBuild(imageDir); err != nil {
		return fleet.TenantFiles{}, err
	}
	files, err := seed(t)
	if err != nil {
		return fleet.TenantFiles{}, err
	}
	path := filepath.Join(dir, seedName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fleet.TenantFiles{}, fmt.Errorf("writing the guest's seed: %w", err)
	}
	if err := os.WriteFile(path, isoImage("cidata", files), 0o600); err != nil {
		return fleet.TenantFiles{}, errors.Join(fmt.Errorf("writing the guest's seed: %w", err), os.Remove(path))
	}
	return fleet.TenantFiles{ConfigPath: path}, nil
}

// seed returns the files of the data source.
func seed(t fleet.Tenant) ([]isoFile, error) {
	network, err := networkConfig(t.Network)
	if err != nil {
		return nil, err
	}
	user, err := userData(t.Env)
	if err != nil {
		return nil, err
	}
	// A constant: with another one cloud-init would take the guest for a copy, and
	// give it new keys, whenever something about it changes.
	meta := map[string]any{"instance-id": "dormouse-" + t.Hostname, "local-hostname": t.Hostname}
	var files []isoFile
	for _, f := range []struct {
		name, head string
		content    any
	}{{"meta-data", "", meta}, {"user-data", "#cloud-config\n", user}, {"network-config", "", network}} {
		body, err := json.Marshal(f.content) // JSON is YAML, whatever is in it
		if err != nil {
			return nil, err
		}
		files = append(files, isoFile{f.name, []byte(f.head + string(body) + "\n")})
	}
	return files, nil
}

// interfaceName is what the guest's one interface is called.
const interfaceName = "eth0"

// networkConfig is cloud-init's network configuration, version 2.
func networkConfig(n fleet.GuestNetwork) (map[string]any, error) {
	nic := map[string]any{}
	if n.MAC != "" {
		// Without set-name the renderers for ifupdown and networkd look for an
		// interface that is called like the entry, whatever its address.
		nic["match"], nic["set-name"] = map[string]any{"macaddress": n.MAC}, interfaceName
	}
	switch prefix, err := netip.ParsePrefix(n.Address); {
	case n.Address == "":
		nic["dhcp4"] = true
	case err != nil:
		return nil, fleet.InvalidField("network.address", "%q is no address with a prefix, as 10.0.0.2/24", n.Address)
	default:
		nic["addresses"] = []string{prefix.String()}
	}
	if n.Gateway != "" && n.Address != "" {
		gateway, err := netip.ParseAddr(n.Gateway)
		if err != nil {
			return nil, fleet.InvalidField("network.gateway", "%q is no address of a gateway", n.Gateway)
		}
		to := "0.0.0.0/0"
		if gateway.Is6() {
			to = "::/0"
		}
		nic["routes"] = []map[string]any{{"to": to, "via": gateway.String()}}
	}
	if len(n.DNS) > 0 {
		for _, s := range n.DNS {
			if _, err := netip.ParseAddr(s); err != nil {
				return nil, fleet.InvalidField("network.dns", "%q is no address of a name server", s)
			}
		}
		nic["nameservers"] = map[string]any{"addresses": n.DNS}
	}
	return map[string]any{"version": 2, "ethernets": map[string]any{interfaceName: nic}}, nil
}

// userData has the environment written at every boot: write_files would do so
// at the first one only, and the environment changes.
func userData(env map[string]string) (map[string]any, error) {
	text, err := environment(env)
	if err != nil {
		return nil, err
	}
	write := fmt.Sprintf(`umask 077 && mkdir -p %[2]s && chmod 0700 %[2]s && base64 -d >%[1]s.new <<'END' && mv %[1]s.new %[1]s
%[3]s
END
`, environmentPath, filepath.Dir(environmentPath), base64.StdEncoding.EncodeToString([]byte(text)))
	return map[string]any{
		"bootcmd": []string{write},
		// The address too is heeded at every boot, should it have changed.
		"updates": map[string]any{"network": map[string]any{"when": []string{"boot", "boot-new-instance"}}},
	}, nil
}

var variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment is the file's content, one variable after another in their order.
func environment(env map[string]string) (string, error) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value := env[name]
		if !variablePattern.MatchString(name) || strings.ContainsRune(value, 0) {
			return "", fleet.InvalidField("env", "the guest's environment can't have the variable %q: a name has letters, digits and _, a value no zero byte", name)
		}
		fmt.Fprintf(&b, "%s=\"%s\"\n", name, strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(value))
		if b.Len() > maxEnvironment {
			return "", fleet.InvalidField("env", "the environment has more than %d bytes: put what is large into a file", maxEnvironment)
		}
	}
	return b.String(), nil
}
