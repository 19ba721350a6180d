package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// jsonMemory is an amount of memory in MiB, written as a number of MiB or as
// OPS writes it: "512M", "2G", also "512MiB", "2GiB". M and G are binary.
type jsonMemory int

var memoryPattern = regexp.MustCompile(`^([0-9]{1,9})\s*([mMgG]([iI]?[bB])?)?$`)

// UnmarshalJSON implements json.Unmarshaler.
func (m *jsonMemory) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		text = string(raw)
	}
	if text == "null" || text == "" {
		return nil
	}
	parts := memoryPattern.FindStringSubmatch(text)
	if parts == nil {
		return fmt.Errorf("%q is no amount of memory: write it like \"128MiB\" or \"2G\"", text)
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return err
	}
	if strings.HasPrefix(strings.ToLower(parts[2]), "g") {
		n *= 1024
	}
	if n > maxMemoryMiB {
		return fmt.Errorf("%q is more than %d MiB: ask for less", text, maxMemoryMiB)
	}
	*m = jsonMemory(n)
	return nil
}

// jsonPorts is a list of ports: each a number, a string like "8080" or
// "1883/tcp", or an object of Number (or Port), Protocol and Name. A port
// without a protocol speaks HTTP.
type jsonPorts []fleet.Port

// UnmarshalJSON implements json.Unmarshaler.
func (p *jsonPorts) UnmarshalJSON(raw []byte) error {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return err
	}
	for _, item := range items {
		port, err := parsePort(item)
		if err != nil {
			return err
		}
		*p = append(*p, port)
	}
	return nil
}

func parsePort(raw json.RawMessage) (fleet.Port, error) {
	port := fleet.Port{Protocol: fleet.ProtocolHTTP}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return port, err
	}
	switch v := v.(type) {
	case float64, string:
		return port, setPort(&port, v)
	case map[string]any:
		seen := map[string]bool{}
		for given, value := range v {
			key := strings.ToLower(given)
			if key == "port" {
				key = "number"
			}
			if seen[key] {
				return port, fmt.Errorf("the port %s gives %s twice: keep one", raw, given)
			}
			seen[key] = true
			text, isText := value.(string)
			switch {
			case key == "number":
				if err := setPort(&port, value); err != nil {
					return port, err
				}
			case key == "protocol" && isText:
				port.Protocol = fleet.Protocol(strings.ToLower(text))
			case key == "name" && isText:
				port.Name = text
			default:
				return port, fmt.Errorf("the port %s has a wrong %q: a port has Number, Protocol (http or tcp) and Name", raw, given)
			}
		}
		return port, nil
	}
	return port, fmt.Errorf("%s is no port: write a number, a string like \"1883/tcp\", or an object of Number, Protocol and Name", raw)
}

func setPort(p *fleet.Port, v any) error {
	switch v := v.(type) {
	case float64:
		if v != math.Trunc(v) || v < 1 || v > 65535 {
			return fmt.Errorf("%v is no port number: use 1 to 65535", v)
		}
		p.Number = int(v)
	case string:
		number, protocol, found := strings.Cut(v, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no port: write 1 to 65535, with /tcp behind it where it does not speak HTTP", v)
		}
		p.Number = int(n)
		if found {
			p.Protocol = fleet.Protocol(strings.ToLower(protocol))
		}
	default:
		return fmt.Errorf("%v is no port number: use 1 to 65535", v)
	}
	return nil
}

// healthKeys is Health as the manifest has it.
type healthKeys struct {
	Type    string
	Port    int
	Path    string
	Timeout jsonDuration
}

// jsonDuration is a duration as Go writes it ("2s"), or a number of seconds.
type jsonDuration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *jsonDuration) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		text = string(raw) + "s"
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		return errors.New(`a duration is needed, like "2s"`)
	}
	*d = jsonDuration(v)
	return nil
}

var envName = regexp.MustCompile(`^[^=\x00]+$`)

func (m *ParsedManifest) checkPlain() error {
	for k, v := range m.Env {
		if !envName.MatchString(k) || strings.ContainsRune(v, 0) {
			return fleet.InvalidField("Env", "%s: the variable %q can't be in an environment: use a name without = and no zero bytes", ManifestName, k)
		}
	}
	for _, a := range m.Args {
		if strings.ContainsRune(a, 0) {
			return fleet.InvalidField("Args", "%s: the argument %q has a zero byte: leave it out", ManifestName, a)
		}
	}
	if m.Dir != "" && !absolute(m.Dir) {
		return fleet.InvalidField("Dir", "%s: Dir is %q: write a clean absolute path in the image", ManifestName, m.Dir)
	}
	switch m.Restart {
	case "":
		m.Restart = fleet.RestartAlways
	case fleet.RestartAlways, fleet.RestartOnFailure, fleet.RestartNever:
	default:
		return fleet.InvalidField("Restart", "%s: Restart is %q: use always, on-failure or never", ManifestName, m.Restart)
	}
	return nil
}

func (m *ParsedManifest) checkPorts() error {
	if len(m.Ports) > maxPorts {
		return fleet.InvalidField("Ports", "%s: there are %d Ports: name at most %d", ManifestName, len(m.Ports), maxPorts)
	}
	seen := map[int]bool{}
	for _, p := range m.Ports {
		switch {
		case p.Number == 0:
			return fleet.InvalidField("Ports", "%s: a port has no Number: give it one", ManifestName)
		case seen[p.Number]:
			return fleet.InvalidField("Ports", "%s: the port %d is named twice: keep one", ManifestName, p.Number)
		case p.Protocol != fleet.ProtocolHTTP && p.Protocol != fleet.ProtocolTCP:
			return fleet.InvalidField("Ports", "%s: the port %d has the protocol %q: use http or tcp", ManifestName, p.Number, p.Protocol)
		case p.Name != "" && !ValidName(p.Name):
			return fleet.InvalidField("Ports", "%s: the port %d has the name %q: use a DNS label (a-z 0-9 -)", ManifestName, p.Number, p.Name)
		}
		seen[p.Number] = true
	}
	return nil
}

// setHealth fills Health in: as given, else by HTTP on the first HTTP port,
// else by TCP on the first port, else not at all.
func (m *ParsedManifest) setHealth(given healthKeys, has bool) error {
	h := fleet.Health{Type: fleet.HealthType(strings.ToLower(given.Type)), Port: given.Port, Path: given.Path, Timeout: time.Duration(given.Timeout)}
	protocol := map[int]fleet.Protocol{}
	for _, p := range m.Ports {
		protocol[p.Number] = p.Protocol
	}
	if h.Port != 0 && protocol[h.Port] == "" {
		return fleet.InvalidField("Health.Port", "%s: Health.Port is %d, which is not among Ports: add it there", ManifestName, h.Port)
	}
	if h.Port == 0 {
		for _, p := range m.Ports {
			if p.Protocol == fleet.ProtocolHTTP && h.Type != fleet.HealthTCP {
				h.Port = p.Number
				break
			}
		}
		if h.Port == 0 && len(m.Ports) > 0 {
			h.Port = m.Ports[0].Number
		}
	}
	if h.Type == "" {
		switch {
		case h.Port == 0:
			h.Type = fleet.HealthNone
		case protocol[h.Port] == fleet.ProtocolHTTP || h.Path != "":
			h.Type = fleet.HealthHTTP
		default:
			h.Type = fleet.HealthTCP
		}
	}
	switch h.Type {
	case fleet.HealthHTTP, fleet.HealthTCP:
		if h.Port == 0 {
			return fleet.InvalidField("Health", "%s: Health is checked by %s, but there are no Ports: name the port", ManifestName, h.Type)
		}
	case fleet.HealthNone:
		if has && (given.Port != 0 || given.Path != "" || given.Timeout != 0) {
			return fleet.InvalidField("Health", "%s: Health of Type none has neither Port nor Path nor Timeout: leave them out, or give a port and another Type", ManifestName)
		}
		m.Health = fleet.Health{Type: fleet.HealthNone}
		return nil
	default:
		return fleet.InvalidField("Health.Type", "%s: Health.Type is %q: use http, tcp or none", ManifestName, given.Type)
	}
	switch {
	case h.Type == fleet.HealthTCP && h.Path != "":
		return fleet.InvalidField("Health.Path", "%s: Health of Type tcp has no Path: leave it out", ManifestName)
	case h.Type == fleet.HealthHTTP && h.Path == "":
		h.Path = "/"
	case h.Type == fleet.HealthHTTP && (!strings.HasPrefix(h.Path, "/") || strings.ContainsAny(h.Path, " \t\r\n\x00#")):
		return fleet.InvalidField("Health.Path", "%s: Health.Path is %q: write a path like /healthz", ManifestName, h.Path)
	}
	if h.Timeout == 0 {
		h.Timeout = DefaultHealthTimeout
	}
	if h.Timeout < 0 || h.Timeout > maxHealthTimeout {
		return fleet.InvalidField("Health.Timeout", "%s: Health.Timeout is %s: use more than 0 and at most %s", ManifestName, h.Timeout, maxHealthTimeout)
	}
	m.Health = h
	return nil
}

// takenDirs belong to the guest's init: nothing may be mounted there, nor below the slash-ended ones.
var takenDirs = []string{"/", "/etc", "/proc/", "/sys/", "/dev/", "/run/", "/tmp/"}

func (m *ParsedManifest) checkPersist() error {
	if len(m.Persist) > maxPersist {
		return fleet.InvalidField("Persist", "%s: Persist names %d directories: name at most %d", ManifestName, len(m.Persist), maxPersist)
	}
	for i, p := range m.Persist {
		if !absolute(p) {
			return fleet.InvalidField("Persist", "%s: Persist names %q: write clean absolute directories", ManifestName, p)
		}
		for _, taken := range takenDirs {
			if p == path.Clean(taken) || (taken != "/" && strings.HasSuffix(taken, "/") && strings.HasPrefix(p, taken)) {
				return fleet.InvalidField("Persist", "%s: Persist names %s, which the guest's init fills itself: use a directory of the program's own, like /data", ManifestName, p)
			}
		}
		for _, other := range m.Persist[:i] {
			if p == other || strings.HasPrefix(p, other+"/") {
				return fleet.InvalidField("Persist", "%s: Persist names %s and %s, one in the other: keep the outer one", ManifestName, other, p)
			}
		}
	}
	return nil
}
