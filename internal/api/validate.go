package api

import (
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"dormouse/internal/fleet"
)

// The bounds of what a request may ask for. The OpenAPI document repeats them;
// a test compares.
const (
	minMemoryMiB, maxMemoryMiB, defaultMemoryMiB = 32, 1 << 20, fleet.DefaultMemoryMiB
	minDiskMiB, maxDiskMiB, defaultDiskMiB       = 16, 64 << 20, 1024
	minVCPUs, maxVCPUs, defaultVCPUs             = 1, 64, fleet.DefaultVCPUs

	maxOwner      = 255
	maxLabel      = 63
	maxEnvName    = 255 // bytes
	maxLabels     = 64
	maxLabelValue = 255
	maxSettings   = 64
	maxSetting    = 1024
)

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isLowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// printable quotes what came from outside for a message, shortened.
func printable(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || r == ' ' || r == utf8.RuneError }) {
		return s
	}
	return strconv.QuoteToGraphic(s)
}

// known lists names for a message.
func known(names []string) string {
	if len(names) == 0 {
		return "none is known"
	}
	names = slices.Clone(names)
	sort.Strings(names)
	return "known are " + strings.Join(names, ", ")
}

// checkName accepts a DNS label (RFC 1123, lower case) that can't be taken for
// an ID, for another host of ours, or for an internationalised name.
func checkName(field, name string) error {
	if name == "" {
		return fleet.InvalidField(field, "%s is missing: give a DNS label, such as acme", field)
	}
	if !isDNSLabel(name) {
		return fleet.InvalidField(field, "%s %s is not a DNS label: use 1 to %d lower-case letters, digits and inner hyphens",
			field, printable(name), maxLabel)
	}
	if fleet.ValidID(name) {
		return fleet.InvalidField(field, "%s %s has the form of an ID: choose another", field, name)
	}
	if len(name) > 3 && name[2:4] == "--" {
		return fleet.InvalidField(field, "%s %s has hyphens as its third and fourth character, which DNS reserves: choose another", field, name)
	}
	return nil
}

func isDNSLabel(name string) bool {
	if len(name) < 1 || len(name) > maxLabel || !isLowerAlnum(name[0]) || !isLowerAlnum(name[len(name)-1]) {
		return false
	}
	for i := range len(name) {
		if !isLowerAlnum(name[i]) && name[i] != '-' {
			return false
		}
	}
	return true
}

// checkInstallationName refuses also the names that the gateway's domain needs itself.
func checkInstallationName(name string) error {
	switch name {
	case "www", "api", "localhost":
		return fleet.InvalidField("name", "the name %s is reserved: choose another", name)
	}
	return checkName("name", name)
}

func checkOwner(owner string) error {
	n := utf8.RuneCountInString(owner)
	if n < 1 || n > maxOwner || strings.TrimSpace(owner) != owner ||
		strings.ContainsFunc(owner, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fleet.InvalidField("owner", "owner must be 1 to %d printable characters without space around them", maxOwner)
	}
	return nil
}

// checkPackageRef accepts name or name@version.
func checkPackageRef(ref string) error {
	name, version, versioned := strings.Cut(ref, "@")
	if !isPackageName(name) || versioned && !isPackageVersion(version) {
		return fleet.InvalidField("package", "package must be a package's name or name@version, not %s", printable(ref))
	}
	return nil
}

// isPackageName accepts 1 to 63 lower-case letters, digits, and . _ - inside.
func isPackageName(s string) bool {
	if len(s) < 1 || len(s) > maxLabel || !isLowerAlnum(s[0]) || !isLowerAlnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !isLowerAlnum(s[i]) && !strings.ContainsRune("._-", rune(s[i])) {
			return false
		}
	}
	return true
}

// isPackageVersion accepts 1 to 63 letters, digits and . _ + ~ - of which the first is no sign.
func isPackageVersion(s string) bool {
	if len(s) < 1 || len(s) > maxLabel || !isAlnum(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && !strings.ContainsRune("._+~-", rune(s[i])) {
			return false
		}
	}
	return true
}

func checkRange(field string, value, low, high int) error {
	if value < low || value > high {
		return fleet.InvalidField(field, "%s must be from %d to %d", field, low, high)
	}
	return nil
}

// checkEnvName accepts [A-Za-z_][A-Za-z0-9_]*.
func checkEnvName(field, name string) error {
	ok := len(name) >= 1 && len(name) <= maxEnvName && (name[0] < '0' || name[0] > '9')
	for i := 0; ok && i < len(name); i++ {
		ok = isAlnum(name[i]) || name[i] == '_'
	}
	if !ok {
		return fleet.InvalidField(field+"."+printable(name),
			"%s: the name %s must be letters, digits and _, not begin with a digit, and have at most %d characters",
			field, printable(name), maxEnvName)
	}
	return nil
}

// checkEnvValue refuses what a process's environment can't hold. It never
// repeats the value.
func checkEnvValue(field, name, value string) error {
	if strings.IndexByte(value, 0) >= 0 {
		return fleet.InvalidField(field+"."+name, "%s: the value of %s contains a NUL character, which an environment can't hold", field, name)
	}
	return nil
}

func checkEnv(field string, env map[string]string) error {
	for name, value := range env {
		if err := checkEnvName(field, name); err != nil {
			return err
		}
		if err := checkEnvValue(field, name, value); err != nil {
			return err
		}
	}
	return nil
}

func checkLabel(field, key, value string) error {
	ok := len(key) >= 1 && len(key) <= maxLabel && isAlnum(key[0]) && isAlnum(key[len(key)-1])
	for i := 0; ok && i < len(key); i++ {
		ok = isAlnum(key[i]) || strings.IndexByte("._-/", key[i]) >= 0
	}
	if !ok {
		return fleet.InvalidField(field+"."+printable(key), "%s: the key %s must be 1 to %d letters, digits and . _ - / inside",
			field, printable(key), maxLabel)
	}
	if utf8.RuneCountInString(value) > maxLabelValue || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fleet.InvalidField(field+"."+key, "%s: the value of %s must be at most %d printable characters", field, key, maxLabelValue)
	}
	return nil
}

func checkLabels(all map[string]string) error {
	if len(all) > maxLabels {
		return fleet.InvalidField("labels", "there are %d labels, at most %d are allowed", len(all), maxLabels)
	}
	for key, value := range all {
		if err := checkLabel("labels", key, value); err != nil {
			return err
		}
	}
	return nil
}

func checkSettings(settings map[string]string) error {
	if len(settings) > maxSettings {
		return fleet.InvalidField("settings", "there are %d settings, at most %d are allowed", len(settings), maxSettings)
	}
	for key, value := range settings {
		if err := checkLabel("settings", key, ""); err != nil {
			return err
		}
		if len(value) > maxSetting || strings.IndexByte(value, 0) >= 0 {
			return fleet.InvalidField("settings."+key, "settings: the value of %s must be at most %d bytes without NUL", key, maxSetting)
		}
	}
	return nil
}
