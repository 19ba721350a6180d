package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// sizeFlag is a size in MiB, given with its unit.
type sizeFlag struct{ mib int }

// String implements pflag.Value.
func (s *sizeFlag) String() string {
	if s.mib == 0 {
		return ""
	}
	return showMiB(int64(s.mib))
}

// Type implements pflag.Value.
func (s *sizeFlag) Type() string { return "SIZE" }

// Set implements pflag.Value.
func (s *sizeFlag) Set(text string) error {
	mib, err := parseMiB(text)
	s.mib = mib
	return err
}

var sizeForm = regexp.MustCompile(`^([0-9]+) ?([A-Za-z]*)$`)

// parseMiB reads a size: a whole number with the unit M, Mi, MiB, G, Gi, GiB,
// T, Ti or TiB, in any case, all powers of 1024 (as QEMU reads them). A number
// without a unit, and the powers of 1000 (MB, GB), are refused: who writes
// them means different things.
func parseMiB(text string) (int, error) {
	m := sizeForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return 0, fmt.Errorf("%q is no size: write a whole number and a unit, such as 128MiB or 1GiB", text)
	}
	factor := int64(1)
	switch strings.ToLower(m[2]) {
	case "m", "mi", "mib":
	case "g", "gi", "gib":
		factor = 1 << 10
	case "t", "ti", "tib":
		factor = 1 << 20
	case "":
		return 0, fmt.Errorf("%q has no unit: write %sMiB or %sGiB", text, m[1], m[1])
	case "mb", "gb", "tb":
		return 0, fmt.Errorf("%q has a unit of powers of 1000: write %s%ciB", text, m[1], strings.ToUpper(m[2])[0])
	default:
		return 0, fmt.Errorf("%q has an unknown unit: use MiB, GiB or TiB", text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > math.MaxInt32/factor {
		return 0, fmt.Errorf("%q is too large", text)
	}
	if n == 0 {
		return 0, fmt.Errorf("%q is nothing: give at least 1MiB", text)
	}
	return int(n * factor), nil
}

// showMiB writes a size in the largest unit in which it is whole.
func showMiB(mib int64) string {
	switch {
	case mib != 0 && mib%(1<<20) == 0:
		return fmt.Sprintf("%dTiB", mib>>20)
	case mib != 0 && mib%(1<<10) == 0:
		return fmt.Sprintf("%dGiB", mib>>10)
	}
	return fmt.Sprintf("%dMiB", mib)
}

// showBytes writes a number of bytes for people.
func showBytes(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%dB", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1fKiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1fMiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1fGiB", float64(n)/(1<<30))
}

// pairs reads KEY=VALUE arguments of a flag.
func pairs(flag string, args []string) (map[string]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, arg := range args {
		key, value, found := strings.Cut(arg, "=")
		if !found || key == "" {
			return nil, usagef("--%s %q: write it KEY=VALUE", flag, arg)
		}
		if _, twice := m[key]; twice {
			return nil, usagef("--%s: %s is given twice", flag, key)
		}
		m[key] = value
	}
	return m, nil
}

// changes joins KEY=VALUE arguments and the keys to remove to a merge patch.
func changes(flag string, set map[string]string, unset []string) (map[string]*string, error) {
	if len(set)+len(unset) == 0 {
		return nil, nil
	}
	m := map[string]*string{}
	for key, value := range set {
		m[key] = &value
	}
	for _, key := range unset {
		if m[key] != nil {
			return nil, usagef("--%s and --unset-%s: %s is in both", flag, flag, key)
		}
		if key == "" || strings.Contains(key, "=") {
			return nil, usagef("--unset-%s %q: give the key alone", flag, key)
		}
		m[key] = nil
	}
	return m, nil
}

// maxSecretBytes is far above any key or certificate, and far below a mistake.
const maxSecretBytes = 1 << 20

// secrets reads --secret arguments: KEY=VALUE as it is, KEY=@FILE from a file,
// KEY=- from standard input (hidden on a terminal), KEY=@@VALUE for a value
// that begins with @. Files are taken as they are, final line feed included.
func (a *app) secrets(args []string) (map[string]string, error) {
	m, err := pairs("secret", args)
	if err != nil {
		// Not the argument: it may hold the secret.
		return nil, usagef("--secret: write it KEY=VALUE, KEY=@FILE or KEY=-, each key once")
	}
	fromStdin := 0
	for _, value := range m {
		if value == "-" {
			fromStdin++
		}
	}
	if fromStdin > 1 {
		return nil, usagef("--secret: only one can come from standard input")
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		value := m[key]
		switch {
		case strings.HasPrefix(value, "@@"):
			m[key] = value[1:]
		case strings.HasPrefix(value, "@"):
			content, err := os.ReadFile(value[1:])
			if err != nil {
				return nil, usagef("--secret %s: %w", key, err)
			}
			m[key] = string(content)
		case value == "-":
			if m[key], err = a.readSecret(key); err != nil {
				return nil, usagef("--secret %s: %w", key, err)
			}
		}
		if len(m[key]) > maxSecretBytes {
			return nil, usagef("--secret %s: it is larger than 1 MiB", key)
		}
		if !utf8.ValidString(m[key]) {
			return nil, usagef("--secret %s: it is not text in UTF-8; encode it, for example with base64", key)
		}
	}
	return m, nil
}

func (a *app) readSecret(key string) (string, error) {
	if a.stdinTTY {
		_, _ = fmt.Fprintf(a.stderr, "%s: ", clean(key))
		content, err := a.readHidden()
		_, _ = fmt.Fprintln(a.stderr)
		return string(content), err
	}
	content, err := io.ReadAll(io.LimitReader(a.stdin, maxSecretBytes+1))
	if err == nil && len(content) == 0 {
		err = errors.New("standard input is empty")
	}
	return string(content), err
}
