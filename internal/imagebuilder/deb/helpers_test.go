package deb

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	loader    = "/lib64/ld-linux-x86-64.so.2"
	multiarch = "usr/lib/x86_64-linux-gnu/"
)

// object is an ELF file of one loaded segment that names an interpreter, where
// there is one, and the libraries it needs.
func object(interp string, needed ...string) string {
	const base, header = 0x1000, 64 + 3*56
	names := interp + "\x00" // the string table too: offsets in it begin at 1
	var tags []uint64
	for _, n := range needed {
		tags = append(tags, uint64(elf.DT_NEEDED), uint64(len(names)))
		names += n + "\x00"
	}
	names += strings.Repeat("\x00", 16-len(names)%16)
	tags = append(tags, uint64(elf.DT_STRTAB), base+header, uint64(elf.DT_STRSZ), uint64(len(names)), 0, 0)
	dynamic, size := uint64(header+len(names)), uint64(header+len(names)+8*len(tags))
	progs := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Vaddr: base, Filesz: size, Memsz: size},
		{Type: uint32(elf.PT_DYNAMIC), Off: dynamic, Vaddr: base + dynamic, Filesz: size - dynamic, Memsz: size - dynamic},
		{Type: uint32(elf.PT_NULL)},
	}
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	if interp != "" {
		h.Entry = base
		progs[2] = elf.Prog64{Type: uint32(elf.PT_INTERP), Off: header, Vaddr: base + header, Filesz: uint64(len(interp) + 1)}
	}
	var b bytes.Buffer
	for _, part := range []any{h, progs, []byte(names), tags} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err) // into memory: can't happen
		}
	}
	return b.String()
}

// file is a member of a test's package: content, or a link's target.
type file struct {
	content, link string
	mode          os.FileMode
}

// pack is a package of a test's archive.
type pack struct {
	control string // Package, Version, … as in debian/control
	files   map[string]file
	// postinst would write this file.
	marker string
}

// repository is an archive on this machine, with apt's configuration for it.
type repository struct {
	t      *testing.T
	dir    string
	config string
}

// newRepository makes the packages with dpkg-deb and has apt read their list.
// options stand in brackets in sources.list(5).
func newRepository(t *testing.T, options string, packs ...pack) *repository {
	t.Helper()
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("only Debian and its relatives make and read these packages: %v", err)
		}
	}
	r := &repository{t: t, dir: t.TempDir()}
	require.NoError(t, os.Chmod(r.dir, 0o755))
	for _, d := range []string{"pool", "lists/partial", "none"} {
		require.NoError(t, os.MkdirAll(filepath.Join(r.dir, d), 0o755))
	}
	var list strings.Builder
	for i, p := range packs {
		list.WriteString(r.build(i, p))
	}
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "Packages"), []byte(list.String()), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "sources.list"), []byte("deb ["+options+"] file:"+r.dir+" ./\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "preferences"), []byte("Package: held\nPin: version *\nPin-Priority: -1\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "status"), nil, 0o644))
	r.config = r.configure("lists")
	if list.Len() > 0 {
		cmd := exec.Command("apt-get", "-q", "update")
		cmd.Env = append(os.Environ(), "APT_CONFIG="+r.config, "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return r
}

// configure writes apt's configuration, of which the lists lie in that directory.
func (r *repository) configure(lists string) string {
	name := filepath.Join(r.dir, "apt-"+lists+".conf")
	body := ""
	for key, value := range map[string]string{
		"Dir::Etc::sourcelist": r.dir + "/sources.list", "Dir::Etc::sourceparts": r.dir + "/none",
		"Dir::Etc::preferences": r.dir + "/preferences", "Dir::Etc::preferencesparts": r.dir + "/none",
		"Dir::State::lists": r.dir + "/" + lists + "/", "Dir::State::status": r.dir + "/status", "Dir::Cache": r.dir + "/none", "APT::Sandbox::User": "",
		"APT::Architecture": "amd64", "APT::Architectures": "amd64",
	} {
		body += fmt.Sprintf("%s %q;\n", key, value)
	}
	require.NoError(r.t, os.WriteFile(name, []byte(body), 0o644))
	return name
}

// build makes a package and returns its paragraph in the list.
func (r *repository) build(i int, p pack) string {
	r.t.Helper()
	root := filepath.Join(r.dir, fmt.Sprintf("build-%d", i))
	write := func(name, content string, mode os.FileMode) {
		at := filepath.Join(root, name)
		require.NoError(r.t, os.MkdirAll(filepath.Dir(at), 0o755))
		require.NoError(r.t, os.WriteFile(at, []byte(content), 0o644))
		require.NoError(r.t, os.Chmod(at, mode))
	}
	control := strings.TrimSpace(p.control) + "\nMaintainer: nobody <nobody@example.com>\nDescription: a test\n"
	if !strings.Contains(control, "Architecture:") {
		control = "Architecture: amd64\n" + control
	}
	write("DEBIAN/control", control, 0o644)
	if p.marker != "" {
		write("DEBIAN/postinst", "#!/bin/sh\ntouch "+p.marker+"\n", 0o755)
	}
	for name, f := range p.files {
		if f.link != "" {
			require.NoError(r.t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
			require.NoError(r.t, os.Symlink(f.link, filepath.Join(root, name)))
			continue
		}
		if f.mode == 0 {
			f.mode = 0o644
		}
		write(name, f.content, f.mode)
	}
	deb := filepath.Join("pool", fmt.Sprintf("%d.deb", i))
	out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Znone", "--build", root, filepath.Join(r.dir, deb)).CombinedOutput()
	require.NoError(r.t, err, "%s", out)
	body, err := os.ReadFile(filepath.Join(r.dir, deb))
	require.NoError(r.t, err)
	sum := sha256.Sum256(body)
	return fmt.Sprintf("%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n", control, deb, len(body), hex.EncodeToString(sum[:]))
}

// tree lists what lies below a directory: mode, size and what a link points to.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	require.NoError(t, filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			lines = append(lines, name+" -> "+target)
		case info.IsDir():
			lines = append(lines, name+"/ "+info.Mode().String()[1:])
		default:
			lines = append(lines, name+" "+info.Mode().String()[1:])
		}
		return nil
	}))
	return lines
}

// members is a tar of these, in order of their names.
func members(t *testing.T, headers ...tar.Header) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := bytes.Repeat([]byte("x"), int(h.Size))
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write(body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return bytes.NewReader(b.Bytes())
}
