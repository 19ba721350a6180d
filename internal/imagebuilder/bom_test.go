package imagebuilder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir(), &fakeKernel{digest: strings.Repeat("a", 64)})
	program := staticELF(elf.EM_X86_64)
	p, err := b.ImportFetched(t.Context(), func(_ context.Context, dir string) (source.Laid, error) {
		for name, body := range map[string][]byte{"usr/sbin/app": program, "usr/share/own": []byte("own")} {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), body, 0o755))
		}
		return source.Laid{Name: "app", Version: "1", Manifest: []byte(`{"Program":"/usr/sbin/app"}`),
			Origins: []source.Origin{{Type: source.OriginDeb, Name: "app", Version: "1:2.0+x-1", Digest: strings.Repeat("b", 64)}, {Type: source.OriginOCI, Name: "unused"}},
			Origin:  map[string]int{"usr/sbin/app": 0}}, nil
	}, ImportOptions{})
	require.NoError(t, err)
	id, err := b.Ensure(t.Context(), p)
	require.NoError(t, err)
	var out, again bytes.Buffer
	require.NoError(t, b.BillOfMaterials(t.Context(), id, &out))
	require.NoError(t, b.BillOfMaterials(t.Context(), id, &again))
	require.Equal(t, out.String(), again.String(), "the same image has the same bill")
	type hash struct{ Alg, Content string }
	type component struct {
		Type, Name, Version, Purl string
		Hashes                    []hash
		Components                []component
	}
	var doc struct {
		BOMFormat, SpecVersion string
		Metadata               struct{ Component component }
		Components             []component
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &doc))
	require.Equal(t, []string{"CycloneDX", "1.6"}, []string{doc.BOMFormat, doc.SpecVersion})
	require.Equal(t, component{Type: "application", Name: "app", Version: "1", Hashes: []hash{{"SHA-256", p.Digest}}}, doc.Metadata.Component)
	sum := func(body []byte) []hash {
		s := sha256.Sum256(body)
		return []hash{{"SHA-256", hex.EncodeToString(s[:])}}
	}
	require.Equal(t, []component{
		{Type: "operating-system", Name: "linux", Hashes: []hash{{"SHA-256", strings.Repeat("a", 64)}}},
		{Type: "library", Name: "app", Version: "1:2.0+x-1", Purl: "pkg:deb/debian/app@1:2.0+x-1?arch=amd64", Hashes: []hash{{"SHA-256", strings.Repeat("b", 64)}},
			Components: []component{{Type: "file", Name: "/usr/sbin/app", Hashes: sum(program)}}},
		{Type: "file", Name: "/usr/share/own", Hashes: sum([]byte("own"))},
	}, doc.Components)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(b.BillOfMaterials(t.Context(), fleet.ImageID(strings.Repeat("0", 64)), &out)))
}
