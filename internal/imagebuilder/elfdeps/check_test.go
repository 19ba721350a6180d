package elfdeps

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestCheckAccepted(t *testing.T) {
	t.Parallel()
	with := func(o testELF, change func(*testELF)) []byte { change(&o); return o.binary() }
	for name, c := range map[string]struct {
		tree      memTree
		env       map[string]string
		interp    string
		libraries []string
		warning   string
	}{
		"Static":    {tree: memTree{"/p": testELF{kind: elf.ET_EXEC}.binary()}},
		"StaticPIE": {tree: memTree{"/p": testELF{kind: elf.ET_DYN}.binary()}},
		"Dynamic": {tree: glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so.1", "libc.so.6").binary(),
			multiarch + "liba.so.1": library("libb.so.2", "libc.so.6").binary(), "/lib/libb.so.2": library().binary()}),
			interp: glibcLoader, libraries: []string{multiarch + "liba.so.1", multiarch + "libc.so.6", "/lib/libb.so.2"}},
		"Circle": {tree: glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(), "/lib/liba.so": library("libb.so").binary(), "/lib/libb.so": library("liba.so").binary()}),
			interp: glibcLoader, libraries: []string{"/lib/liba.so", "/lib/libb.so"}},
		"RunpathOrigin": {tree: glibcTree(map[string][]byte{"/opt/app/bin/p": with(program(glibcLoader, "liba.so"), func(o *testELF) { o.runpath = "$ORIGIN/../lib" }),
			"/opt/app/lib/liba.so": library().binary(), "/lib/liba.so": library().binary()}),
			interp: glibcLoader, libraries: []string{"/opt/app/lib/liba.so"}},
		"RpathInherited": {tree: glibcTree(map[string][]byte{"/p": with(program(glibcLoader, "liba.so"), func(o *testELF) { o.rpath = "/x:/opt/${LIB}" }),
			"/opt/lib/x86_64-linux-gnu/liba.so": library("libb.so").binary(), "/opt/lib/x86_64-linux-gnu/libb.so": library().binary()}),
			interp: glibcLoader, libraries: []string{"/opt/lib/x86_64-linux-gnu/liba.so", "/opt/lib/x86_64-linux-gnu/libb.so"}},
		"LibraryPath": {tree: glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(), "/opt/liba.so": library().binary()}),
			env: map[string]string{"LD_LIBRARY_PATH": "/nowhere:/opt"}, interp: glibcLoader, libraries: []string{"/opt/liba.so"}},
		"Preload": {tree: glibcTree(map[string][]byte{"/p": program(glibcLoader).binary(), "/opt/liba.so": library().binary()}),
			env: map[string]string{"LD_PRELOAD": "/opt/liba.so"}, interp: glibcLoader, libraries: []string{"/opt/liba.so"}},
		"LdSoConf": {tree: glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(), "/opt/x/liba.so": library().binary(), "/etc/ld.so.cache": {},
			"/etc/ld.so.conf": []byte("# comment\ninclude /etc/ld.so.conf.d/*.conf\n"), "/etc/ld.so.conf.d/x.conf": []byte("/opt/x\ninclude ../ld.so.conf\n")}),
			interp: glibcLoader, libraries: []string{"/opt/x/liba.so"}},
		"LdSoConfWithoutCache": {tree: glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(), "/opt/x/liba.so": library().binary(), "/etc/ld.so.conf": []byte("/opt/x")}),
			interp: glibcLoader, libraries: []string{"/opt/x/liba.so"}, warning: "ldconfig"},
		"OtherMachinePassedOver": {tree: glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(),
			"/lib64/liba.so": with(library(), func(o *testELF) { o.machine = elf.EM_AARCH64 }), "/usr/lib/liba.so": library().binary()}),
			interp: glibcLoader, libraries: []string{"/usr/lib/liba.so"}},
		"Musl": {tree: muslTree(map[string][]byte{"/p": program(muslLoader, "libz.so.1", "libc.musl-x86_64.so.1").binary(), "/usr/lib/libz.so.1": library("libc.so", "libpthread.so").binary()}),
			interp: muslLoader, libraries: []string{"/usr/lib/libz.so.1"}},
		"MuslPath": {tree: muslTree(map[string][]byte{"/p": program(muslLoader, "libz.so.1").binary(), "/opt/libz.so.1": library().binary(), muslPath: []byte("/x:/opt\n")}),
			interp: muslLoader, libraries: []string{"/opt/libz.so.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := "/p"
			if name == "RunpathOrigin" {
				start = "/opt/app/bin/p"
			}
			r, err := Check(c.tree, start, c.env)
			require.NoError(t, err)
			require.Equal(t, c.interp, r.Interpreter)
			require.Equal(t, c.libraries, r.Libraries)
			if c.warning == "" {
				require.Empty(t, r.Warnings)
			} else {
				require.Contains(t, strings.Join(r.Warnings, "\n"), c.warning)
			}
		})
	}
}

func TestCheckRefused(t *testing.T) {
	t.Parallel()
	static := testELF{kind: elf.ET_EXEC}
	with := func(change func(*testELF)) []byte { o := static; change(&o); return o.binary() }
	for name, c := range map[string]struct {
		tree memTree
		says string
	}{
		"ARM":         {memTree{"/p": with(func(o *testELF) { o.machine = elf.EM_AARCH64 })}, "an ELF for ARM aarch64; build it for x86-64 (GOARCH=amd64)"},
		"X86":         {memTree{"/p": with(func(o *testELF) { o.machine, o.class = elf.EM_386, elf.ELFCLASS32 })}, "an ELF for x86 (32 bits)"},
		"X32":         {memTree{"/p": with(func(o *testELF) { o.class = elf.ELFCLASS32 })}, "x32"},
		"FreeBSD":     {memTree{"/p": with(func(o *testELF) { o.osabi = elf.ELFOSABI_FREEBSD })}, "another system than Linux"},
		"Unknown":     {memTree{"/p": with(func(o *testELF) { o.machine = 9999 })}, "build it for x86-64"},
		"Object":      {memTree{"/p": with(func(o *testELF) { o.kind = elf.ET_REL })}, "can't be started"},
		"Library":     {memTree{"/p": library("libc.so.6").binary()}, "a shared library, not a program"},
		"NoELF":       {memTree{"/p": []byte(strings.Repeat("x", 100))}, "no ELF file"},
		"Short":       {memTree{"/p": []byte(elf.ELFMAG)}, "too short"},
		"Nothing":     {memTree{}, "reading the program"},
		"Truncated":   {memTree{"/p": truncate(program(glibcLoader, repeat("libc.so.6", 99)...).binary(), 400)}, "truncated"},
		"NoLoader":    {memTree{"/p": program(glibcLoader).binary()}, "/p needs the file " + glibcLoader},
		"LoaderIsARM": {memTree{"/p": program(glibcLoader).binary(), glibcLoader: with(func(o *testELF) { o.machine = elf.EM_ARM })}, "no ELF file for x86-64"},
		"Missing":     {glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so.1").binary()}), "/p needs the library liba.so.1"},
		"MissingDeep": {glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(), "/lib/liba.so": library("libb.so").binary()}),
			"/lib/liba.so needs the library libb.so"},
		"MissingButForARM": {glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(), "/lib/liba.so": library("libb.so").binary(),
			"/usr/lib/libb.so": with(func(o *testELF) { o.kind, o.machine = elf.ET_DYN, elf.EM_AARCH64 })}), "/lib/liba.so needs libb.so, but /usr/lib/libb.so is for ARM aarch64"},
		"MissingBut32Bit": {glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(),
			"/lib/liba.so": with(func(o *testELF) { o.kind, o.machine, o.class = elf.ET_DYN, elf.EM_386, elf.ELFCLASS32 })}), "/p needs liba.so, but /lib/liba.so is for x86 (32 bits)"},
		"MissingByPath":  {glibcTree(map[string][]byte{"/p": program(glibcLoader, "/opt/liba.so").binary()}), "needs the file /opt/liba.so"},
		"RelativePath":   {glibcTree(map[string][]byte{"/p": program(glibcLoader, "./liba.so").binary()}), "depends on the working directory"},
		"RelativeInterp": {memTree{"/p": program("ld.so").binary()}, "not absolute"},
		"MuslOnGlibc": {glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(), "/lib/liba.so": library("libc.musl-x86_64.so.1").binary()}),
			"/lib/liba.so needs libc.musl-x86_64.so.1, but /p is linked for glibc"},
		"GlibcOnMusl": {muslTree(map[string][]byte{"/p": program(muslLoader, "liba.so").binary(), "/lib/liba.so": library("libc.so.6").binary()}),
			"/lib/liba.so needs libc.so.6, but /p is linked for musl"},
		"TooManyNeeded": {glibcTree(map[string][]byte{"/p": program(glibcLoader, repeat("x", maxNeeded+1)...).binary()}), "more than 4096 libraries"},
		"TooManyPaths":  {glibcTree(map[string][]byte{"/p": with(func(o *testELF) { o.interp, o.rpath = glibcLoader, strings.Repeat("/x:", 300) })}), "more than 256 directories"},
		"EmptyNeeded":   {glibcTree(map[string][]byte{"/p": program(glibcLoader, "").binary()}), "without a name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Check(c.tree, "/p", nil)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
		})
	}
	_, err := Check(glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so.1").binary()}), "/p", nil)
	var lacks *Missing
	require.True(t, errors.As(err, &lacks))
	require.Equal(t, Missing{Library: "liba.so.1", NeededBy: "/p"}, *lacks)
}

// A file with every byte of its headers damaged in turn is refused or read, and nothing worse.
func TestDamagedBytes(t *testing.T) {
	t.Parallel()
	whole := program(glibcLoader, "libc.so.6").binary()
	for i := range whole {
		for _, v := range []byte{0, 1, 0x7f, 0xff} {
			bad := bytes.Clone(whole)
			bad[i] = v
			if _, err := Check(glibcTree(map[string][]byte{"/p": bad}), "/p", nil); err != nil {
				require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), fmt.Sprintf("byte %d = %d: %v", i, v, err))
			}
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(testELF{kind: elf.ET_EXEC}.binary())
	f.Add(program(glibcLoader, "libc.so.6", "liba.so").binary())
	f.Add(testELF{kind: elf.ET_DYN, interp: muslLoader, needed: []string{"libc.so"}, runpath: "$ORIGIN/x:/y", rpath: "/z"}.binary())
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, tree := range []memTree{
			glibcTree(map[string][]byte{"/p": raw, "/lib/liba.so": raw}),
			muslTree(map[string][]byte{"/p": raw, "/lib/liba.so": raw}),
		} {
			if _, err := Check(tree, "/p", map[string]string{"LD_PRELOAD": "liba.so"}); err != nil {
				require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
			}
		}
	})
}
