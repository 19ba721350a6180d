package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// format is how results are written.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatTable, formatJSON, formatYAML:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("%q is none of table, json and yaml", s)
}

// print writes a result: value as JSON or YAML, or what table returns.
func (a *app) print(value any, table func() string) error {
	var out []byte
	switch a.output {
	case formatJSON:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(value); err != nil {
			return fmt.Errorf("writing the result as JSON: %w", err)
		}
		out = escapeControls(b.Bytes())
	case formatYAML:
		var err error
		if out, err = yaml.Marshal(value); err != nil {
			return fmt.Errorf("writing the result as YAML: %w", err)
		}
	default:
		out = []byte(table())
	}
	if _, err := a.stdout.Write(out); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// table is text in columns; the first row is the head.
type table [][]string

// String aligns the columns with two spaces between them. Nothing is cut off.
func (t table) String() string {
	var widths []int
	for r, row := range t {
		for i := range row {
			t[r][i] = clean(row[i])
			if row[i] == "" {
				t[r][i] = "-"
			}
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(t[r][i]))
		}
	}
	var b strings.Builder
	for _, row := range t {
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// sheet is one thing, a line for each of its facts.
type sheet struct {
	b strings.Builder
}

const sheetIndent = 14

// add writes a fact that is known.
func (s *sheet) add(name, value string) {
	if value != "" {
		fmt.Fprintf(&s.b, "%-*s%s\n", sheetIndent, name+":", clean(value))
	}
}

// list writes a fact of several lines.
func (s *sheet) list(name string, values []string) {
	for i, v := range values {
		if i > 0 {
			name = ""
		} else {
			name += ":"
		}
		fmt.Fprintf(&s.b, "%-*s%s\n", sheetIndent, name, clean(v))
	}
}

// String returns the lines.
func (s *sheet) String() string { return s.b.String() }

// age is how long ago t was, in one short word; "" if t is not known.
func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := a.now().Sub(t)
	if d < 10*time.Second {
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	}
	return span(d)
}

// ago is age in words.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return a.age(t) + " ago"
}

// span is a duration in one short word. What lies ahead because two clocks
// differ counts as now.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%dh", int(d.Hours()))
	case d < 730*day:
		return fmt.Sprintf("%dd", int(d/day))
	}
	return fmt.Sprintf("%dy", int(d/(365*day)))
}

// copyLogs copies output of a guest. Unless raw, what could steer a terminal is taken out.
func (a *app) copyLogs(r io.Reader, raw bool) error {
	w := a.stdout
	if a.stdoutTTY && !raw {
		w = &stripper{w: a.stdout}
	}
	_, err := io.Copy(w, r)
	return err
}
