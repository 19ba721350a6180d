package archtest

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the generated block of ARCHITECTURE.md anew")

const root = "../.."

func TestImports(t *testing.T) {
	t.Parallel()
	tree, err := readTree(root)
	require.NoError(t, err)
	for _, breach := range tree.check(rooms(), fences()) {
		t.Error(breach)
	}
}

// replaceBlock returns the document with the block between <!-- name --> and
// <!-- /name --> replaced.
func replaceBlock(document, name, block string) (string, bool) {
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	before, rest, ok := strings.Cut(document, begin)
	if !ok {
		return document, false
	}
	_, after, ok := strings.Cut(rest, end)
	return before + begin + block + end + after, ok
}

func TestPackageGraphInArchitecture(t *testing.T) {
	t.Parallel()
	tree, err := readTree(root)
	require.NoError(t, err)
	path := filepath.Join(root, "ARCHITECTURE.md")
	document, err := os.ReadFile(path)
	require.NoError(t, err)
	want, ok := replaceBlock(string(document), "packages", tree.graph(rooms()))
	require.True(t, ok, "ARCHITECTURE.md has no block <!-- packages --> … <!-- /packages -->")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		return
	}
	if want != string(document) {
		t.Error("the package graph in ARCHITECTURE.md is out of date: run go test ./internal/archtest -update")
	}
}

// The rules themselves, each broken once in a small module.
func TestBreaches(t *testing.T) {
	t.Parallel()
	rules := []room{
		{path: "core", standardOnly: true, reason: "the core points nowhere"},
		{path: "store/...", may: []string{"core", "store/..."}, tests: []string{"lab"}, reason: "only SQL"},
		{path: "lab", reason: "a lab"},
	}
	fenced := []fence{{imports: []string{"database/sql", "example.com/db"}, only: []string{"store/..."}, tests: []string{"lab"}, reason: "SQL in the store"}}
	whole := map[string]string{
		"go.mod":              "module m\n\ngo 1.26\n",
		"core/core.go":        "package core\nimport _ \"strings\"\n",
		"core/core_test.go":   "package core_test\nimport (\n_ \"m/core\"\n_ \"example.com/testing\"\n)\n",
		"store/store.go":      "package store\nimport (\n_ \"m/core\"\n_ \"m/store/sub\"\n_ \"database/sql\"\n_ \"example.com/db/driver\"\n)\n",
		"store/sub/sub.go":    "package sub\n",
		"store/store_test.go": "package store\nimport _ \"m/lab\"\n",
		"lab/lab.go":          "package lab\n",
		"lab/lab_test.go":     "package lab\nimport _ \"database/sql\"\n",
		"lab/testdata/x.go":   "package x\nimport _ \"m/core\"\n",
		"_old/old.go":         "package old\n",
	}
	for name, test := range map[string]struct {
		file, content string
		rules         []room
		want          string
	}{
		"nothing broken":              {},
		"import of another room":      {file: "lab/bad.go", content: "package lab\nimport _ \"m/core\"\n", want: "lab/bad.go:2: lab must not import m/core: a lab"},
		"in a file with a build tag":  {file: "lab/bad.go", content: "//go:build plan9\n\npackage lab\nimport _ \"m/core\"\n", want: "lab/bad.go:4: lab must not import m/core"},
		"test import outside a test":  {file: "store/bad.go", content: "package store\nimport _ \"m/lab\"\n", want: "store must not import m/lab"},
		"import in a test":            {file: "core/bad_test.go", content: "package core\nimport _ \"m/lab\"\n", want: "core must not import m/lab"},
		"third party in the core":     {file: "core/bad.go", content: "package core\nimport _ \"example.com/x\"\n", want: "core must not import example.com/x: the core points nowhere"},
		"fenced import":               {file: "core/bad.go", content: "package core\nimport _ \"database/sql/driver\"\n", want: "core must not import database/sql/driver: SQL in the store"},
		"fenced import outside tests": {file: "lab/bad.go", content: "package lab\nimport _ \"example.com/db\"\n", want: "lab must not import example.com/db: SQL in the store"},
		"a hypervisor":                {file: "lab/bad.go", content: "package lab\nconst q = \"/usr/bin/qemu-system-x86_64\"\n", want: "lab/bad.go:2: lab names /usr/bin/qemu-system-x86_64"},
		"a package without a row":     {file: "new/new.go", content: "package new\n", want: "package new has 0 rows instead of one"},
		"a package with two rows":     {rules: []room{{path: "store/sub", reason: "again"}}, want: "package store/sub has 2 rows instead of one"},
		"a row whose package is gone": {rules: []room{{path: "gone", reason: "was here"}}, want: "the row gone names a package that is gone"},
		"a row without a reason":      {file: "new/new.go", content: "package new\n", rules: []room{{path: "new"}}, want: "the row new says no reason"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write := func(file, content string) {
				path := filepath.Join(dir, file)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
			}
			for file, content := range whole {
				write(file, content)
			}
			if test.file != "" {
				write(test.file, test.content)
			}
			tree, err := readTree(dir)
			require.NoError(t, err)
			breaches := tree.check(append(test.rules, rules...), fenced)
			if test.want == "" {
				require.Empty(t, breaches)
				require.Contains(t, tree.graph(rules), "| `store` | `core` `store/sub` | only SQL |\n")
				return
			}
			require.Len(t, breaches, 1)
			require.Contains(t, breaches[0], test.want)
		})
	}
}

func TestReplaceBlock(t *testing.T) {
	t.Parallel()
	got, ok := replaceBlock("a\n<!-- x -->\nold\n<!-- /x -->\nb\n", "x", "new\n")
	require.True(t, ok)
	require.Equal(t, "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n", got)
	for _, broken := range []string{"a\n", "<!-- x -->\nold\n"} {
		_, ok := replaceBlock(broken, "x", "new\n")
		require.False(t, ok)
	}
}
