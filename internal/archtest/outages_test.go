package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// docs/outages.md names a test for each outage: they exist, and no outage that is
// tested is missing there.
func TestOutagesAreTested(t *testing.T) {
	t.Parallel()
	tree, err := readTree(root)
	require.NoError(t, err)
	document, err := os.ReadFile(filepath.Join(root, "docs", "outages.md"))
	require.NoError(t, err)
	named := map[string]bool{}
	for _, name := range regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]+)`").FindAllStringSubmatch(string(document), -1) {
		named[name[1]] = true
	}
	require.NotEmpty(t, named)
	there := map[string]bool{}
	for _, p := range tree.packages {
		for _, name := range p.tests {
			there[name] = true
			if strings.HasPrefix(name, "TestOutage") && name != t.Name() && !named[name] {
				t.Errorf("docs/outages.md does not tell of %s: add a row", name)
			}
		}
	}
	delete(named, "TestOutage")
	for name := range named {
		if !there[name] {
			t.Errorf("docs/outages.md names %s, and there is no such test", name)
		}
	}
}
