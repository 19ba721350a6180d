package source

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func manifest(more string) string {
	return `{"Name": "app", "Version": "1"` + more + `}`
}

func TestProgramNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		program, want string
		top           string
	}{
		"AbsoluteInSysroot":      {"/bin/app", "/bin/app", ""},
		"RelativeToPackage":      {"prog/app", "/prog/app", ""},
		"WithDot":                {"./prog/app", "/prog/app", ""},
		"BehindPackageDir":       {"app_1/prog/app", "/prog/app", "app_1"},
		"BehindUnknownDir":       {"whatever/prog/app", "/prog/app", ""},
		"RelativeUnderTop":       {"prog/app", "/prog/app", "app_1"},
		"InSysroot":              {"sysroot/bin/app", "/bin/app", ""},
		"LinkInPackageIsResolve": {"link", "/link", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			members := with(manifest(`, "Program": "`+c.program+`"`), file("sysroot/bin/app", elfBytes), file("prog/app", elfBytes+"2"), symlink("link", "prog/app"))
			if c.top != "" {
				for i := range members {
					members[i].name = c.top + "/" + members[i].name
				}
			}
			p := mustRead(t, members)
			require.Equal(t, c.want, p.Manifest.Program)
			e, err := p.Tree.Lookup(c.want)
			require.NoError(t, err)
			require.Equal(t, File, e.Kind)
			require.Equal(t, []string{c.want}, p.Executables)
		})
	}
}

func TestLayRefused(t *testing.T) {
	t.Parallel()
	elf := file("sysroot/bin/app", elfBytes)
	program := `, "Program": "/bin/app"`
	for name, c := range map[string]struct {
		members []member
		says    string
	}{
		"NoProgram":         {with(manifest("")), "has no Program"},
		"ProgramMissing":    {with(manifest(program)), "does not hold"},
		"ProgramUnclean":    {with(manifest(`, "Program": "/bin/../bin/app"`), elf), "clean absolute"},
		"ProgramOutside":    {with(manifest(`, "Program": "../app"`), elf), "no path inside the package"},
		"ProgramDirectory":  {with(manifest(`, "Program": "/bin"`), elf), "no regular file"},
		"NotExecutable":     {with(manifest(program), member{name: "sysroot/bin/app", body: elfBytes, mode: 0o644}), "chmod +x"},
		"NotELF":            {with(manifest(program), file("sysroot/bin/app", "MZ")), "neither an ELF"},
		"EmptyProgram":      {with(manifest(program), file("sysroot/bin/app", "")), "neither an ELF"},
		"NoInterpreter":     {with(manifest(program), file("sysroot/bin/app", "#!/bin/sh\n")), "the interpreter of the script /bin/app is /bin/sh"},
		"RelativeInterp":    {with(manifest(program), file("sysroot/bin/app", "#!sh\n")), "no interpreter by an absolute path"},
		"ScriptLoop":        {with(manifest(program), file("sysroot/bin/app", "#!/bin/app\n")), "more than 4 deep"},
		"EnvLoop":           {with(manifest(`, "Program": "/bin/env"`), file("sysroot/bin/env", "#!/bin/env x\n")), "more than 4 deep"},
		"EnvCommandMissing": {with(manifest(program), file("sysroot/bin/app", "#!/usr/bin/env python3\n"), file("sysroot/usr/bin/env", elfBytes)), "runs python3 through env"},
		"FileMissing":       {with(manifest(program+`, "Files": ["x"]`), elf), "Files names a file that the package does not hold"},
		"FileOutside":       {with(manifest(program+`, "Files": ["../x"]`), elf), "no path inside the package"},
		"FileAbsolute":      {with(manifest(program+`, "Files": ["/etc/passwd"]`), elf), "no path inside the package"},
		"FileIsDir":         {with(manifest(program+`, "Files": ["sysroot"]`), elf), "use Dirs"},
		"DirIsFile":         {with(manifest(program+`, "Dirs": ["x"]`), elf, file("x", "")), "use Files"},
		"DirMissing":        {with(manifest(program+`, "Dirs": ["x"]`), elf), "does not hold"},
		"MapPattern":        {with(manifest(program+`, "MapDirs": {"x/[": "/y"}`), elf, dir("x"), file("x/y", "")), "malformed pattern"},
		"MapMatchesNothing": {with(manifest(program+`, "MapDirs": {"x/*.js": "/y"}`), elf, dir("x")), "nothing in the package matches"},
		"MapOutside":        {with(manifest(program+`, "MapDirs": {"x": "/../y"}`), elf, dir("x")), "clean absolute path"},
		"MovedLinkOut":      {with(manifest(program+`, "MapDirs": {"x/y": "/"}`), elf, symlink("x/y/l", "../../z")), "outside of the package"},
		"FileOverDirectory": {with(manifest(program+`, "Files": ["bin"]`), elf, file("bin", "")), "a directory is there already"},
		"PersistIsFile":     {with(manifest(program+`, "Persist": ["/bin/app"]`), elf), "no directory in the image"},
		"PersistInFile":     {with(manifest(program+`, "Persist": ["/data"]`), elf, symlink("sysroot/data", "data")), "no directory in the image"},
		"SysrootIsFile":     {with(manifest(program), file("sysroot", "")), "no directory"},
		"Name":              {with(`{"Name": "Bad_Name", "Version": "1", "Program": "/bin/app"}`, elf), "no DNS label"},
		"NoName":            {with(`{"Version": "1", "Program": "/bin/app"}`, elf), "has no name"},
		"Version":           {with(`{"Name": "app", "Version": "1/2", "Program": "/bin/app"}`, elf), "is not valid"},
		"NoVersion":         {with(`{"Name": "app", "Program": "/bin/app"}`, elf), "has no version"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := read(t, c.members)
			requireInvalid(t, err, c.says)
		})
	}
}

func TestLayFilesAndDirs(t *testing.T) {
	t.Parallel()
	p := mustRead(t, with(manifest(`, "Program": "/bin/app", "Files": ["conf/a.conf", "lib/x"], "Dirs": ["static"], "MapDirs": {"src/*.js": "/app", "tree": "srv/tree", "all/*": "/all"}`),
		file("sysroot/bin/app", elfBytes), symlink("sysroot/lib", "usr/lib"), dir("sysroot/usr/lib"), file("sysroot/conf/a.conf", "old"),
		file("conf/a.conf", "new"), file("lib/x", "lib"), file("static/css/s.css", "css"), symlink("static/s", "css/s.css"),
		file("src/a.js", "a"), file("src/b.js", "b"), file("src/c.ts", "c"), file("tree/deep/f", "f"), file("all/one", "1"), file("all/sub/two", "2"), file("unnamed", "x")))
	for name, want := range map[string]string{
		"/conf/a.conf": "new", "/usr/lib/x": "lib", "/static/css/s.css": "css", "/static/s": "css", "/app/a.js": "a", "/app/b.js": "b",
		"/srv/tree/deep/f": "f", "/all/one": "1", "/all/sub/two": "2",
	} {
		r, err := p.Tree.Open(name)
		require.NoError(t, err, name)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, want, string(body), name)
	}
	for _, name := range []string{"/app/c.ts", "/unnamed", "/package.manifest"} {
		_, err := p.Tree.Lookup(name)
		require.True(t, missing(err), name)
	}
}

func TestScripts(t *testing.T) {
	t.Parallel()
	p := mustRead(t, with(manifest(`, "Program": "/bin/app", "Env": {"PATH": "/opt"}`), file("sysroot/bin/app", "#!/usr/bin/env python3\nprint()\n"),
		file("sysroot/usr/bin/env", elfBytes), file("sysroot/opt/python3", elfBytes)))
	require.Equal(t, []string{"/usr/bin/env", "/opt/python3"}, p.Executables)
}

func TestNameAndVersion(t *testing.T) {
	t.Parallel()
	under := func(top, manifest string) []member {
		return []member{file(top+"/"+ManifestName, manifest), file(top+"/sysroot/bin/app", elfBytes)}
	}
	for name, c := range map[string]struct {
		members []member
		options Options
		want    [2]string
	}{
		"Manifest":     {app(), Options{}, [2]string{"app", "1"}},
		"Options":      {app(), Options{Name: "other", Version: "2"}, [2]string{"other", "2"}},
		"TopDirectory": {under("web_3.1", `{"Program": "/bin/app"}`), Options{}, [2]string{"web", "3.1"}},
		"Mixed":        {under("web_3.1", `{"Program": "/bin/app", "Version": "4"}`), Options{Name: "x"}, [2]string{"x", "4"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := readWith(t, archiveOf(t, c.members), c.options)
			require.NoError(t, err)
			require.Equal(t, c.want, [2]string{p.Name, p.Version})
		})
	}
}

func TestTreeChange(t *testing.T) {
	t.Parallel()
	p := mustRead(t, app(symlink("sysroot/var", "usr/var"), symlink("sysroot/etc/hosts", "/nowhere"), file("sysroot/etc/hostname", "h")))
	clone := p.Tree.Clone()
	before := p.Tree.Len()
	at, err := clone.EnsureDir("/var/lib/x", 0o700)
	require.NoError(t, err)
	require.Equal(t, "usr/var/lib/x", at)
	require.NoError(t, clone.EnsureFile("/etc/hosts", 0o644))
	require.NoError(t, clone.EnsureFile("/etc/hostname", 0o644))
	e, err := clone.Lookup("/etc/hosts")
	require.NoError(t, err)
	require.Equal(t, File, e.Kind)
	e, err = clone.Lookup("/etc/hostname")
	require.NoError(t, err)
	require.EqualValues(t, 1, e.Size)
	_, err = clone.EnsureDir("/bin/app", 0o755)
	require.ErrorContains(t, err, "no directory")
	_, err = clone.EnsureDir("/bin/app/x", 0o755)
	require.Error(t, err)
	require.Error(t, clone.EnsureFile("/etc", 0o644))
	require.Equal(t, before, p.Tree.Len(), "the original stays as it was")
}
