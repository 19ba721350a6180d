package fleet

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// constants returns the values of all constants of a type in this package.
func constants[T ~string](t *testing.T, typ string) []T {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var values []T
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				if id, ok := v.Type.(*ast.Ident); ok && id.Name == typ {
					text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
					require.NoError(t, err)
					if text != "" {
						values = append(values, T(text))
					}
				}
			}
		}
	}
	require.NotEmpty(t, values, typ)
	return values
}

// schema is what all migrations do, in order.
func schema(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("../../migrations/*.up.sql")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var b strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		b.Write(text)
	}
	return b.String()
}

// allowed returns what the last definition of a check constraint lets through.
func allowed(schema, constraint string) []string {
	found := regexp.MustCompile(constraint+`\s+CHECK\s*\(\w+ IN \(([^)]*)\)`).FindAllStringSubmatch(schema, -1)
	if len(found) == 0 {
		return nil
	}
	var values []string
	for _, v := range regexp.MustCompile(`'([^']*)'`).FindAllStringSubmatch(found[len(found)-1][1], -1) {
		values = append(values, v[1])
	}
	return values
}

// differences names what only one of the two knows.
func differences[T ~string](inGo []T, inSQL []string) []string {
	var d []string
	for _, s := range inGo {
		if !slices.Contains(inSQL, string(s)) {
			d = append(d, string(s)+" is only in Go")
		}
	}
	for _, s := range inSQL {
		if !slices.Contains(inGo, T(s)) {
			d = append(d, s+" is only in SQL")
		}
	}
	return d
}

// The check constraints let through what Go knows, and nothing else.
func TestSQLChecksMatch(t *testing.T) {
	t.Parallel()
	sql := schema(t)
	require.Empty(t, differences(States(), allowed(sql, "installation_state")))
	require.Empty(t, differences(constants[State](t, "State"), allowed(sql, "installation_state")))
	require.Empty(t, differences(constants[ClusterState](t, "ClusterState"), allowed(sql, "cluster_state")))
	require.Empty(t, differences(constants[HostState](t, "HostState"), allowed(sql, "host_state")))
	require.Empty(t, differences(constants[Power](t, "Power"), allowed(sql, "instance_power")))
	require.Empty(t, differences(constants[OperationState](t, "OperationState"), allowed(sql, "operation_state")))
}

func TestSQLChecksFindADifference(t *testing.T) {
	t.Parallel()
	sql := schema(t)
	lost := strings.Replace(sql, "'hibernating',", "", 1)
	require.Equal(t, []string{"hibernating is only in Go"}, differences(States(), allowed(lost, "installation_state")))
	more := strings.Replace(sql, "'crash-looping',", "'crash-looping', 'napping',", 1)
	require.Equal(t, []string{"napping is only in SQL"}, differences(States(), allowed(more, "installation_state")))
	later := sql + "\nALTER TABLE instance ADD CONSTRAINT instance_power CHECK (power IN ('on', 'off'));"
	require.Len(t, differences(constants[Power](t, "Power"), allowed(later, "instance_power")), 2, "the last definition counts")
	require.Empty(t, allowed(sql, "no_such_constraint"))
}
