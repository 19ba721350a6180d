package nanos

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// tinyELF is a static program of these machine instructions.
func tinyELF(t testing.TB, code ...byte) string {
	t.Helper()
	const base, head = 0x400000, 64 + 56
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: base + head, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	size := uint64(head + len(code))
	for _, v := range []any{h, elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Filesz: size, Memsz: size, Align: 4096}, code} {
		require.NoError(t, binary.Write(&b, binary.LittleEndian, v))
	}
	return b.String()
}

// logs are real ones, of the boots that TestBootEvidence does again.
func TestEvidence(t *testing.T) {
	t.Parallel()
	for name, want := range evidenceOf {
		log, err := os.ReadFile(filepath.Join("testdata", "logs", name+".log"))
		require.NoError(t, err)
		require.Equal(t, want, Evidence(log), name)
	}
	require.Empty(t, Evidence(nil))
	require.Equal(t, []string{"Nanos has no system call syscall_999"}, Evidence([]byte("[2] syscall_334() = -ENOSYS\n[2] syscall_999() = -ENOSYS\n")))
	require.Equal(t, []string{"the program did not start: \"x\" [31m"}, Evidence([]byte("program startup failed before exec: \"x\" \x1b[31m\x00\xff\n")))
	var many bytes.Buffer
	for i := range 1000 {
		many.WriteString("[2] call")
		many.WriteByte(byte('a' + i%26))
		many.WriteByte(byte('a' + i/26%26))
		many.WriteString("() = -ENOSYS\n")
	}
	require.Len(t, Evidence(many.Bytes()), maxEvidence)
	require.Equal(t, []string{"the program exited with 7", "the program was ended by signal 4"}, Exit{Code: 7, Log: []byte("*** signal 4 received by tid 2\n")}.Evidence())
	require.Equal(t, []string{"the program exited with 1: first / no root [31m"}, Exit{Code: 1, Log: []byte("first\nno root \x1b[31m\r\n\n[0.5] en1: assigned 10.0.0.2\n[2] exit_group(1)\n")}.Evidence())
	long := Exit{Log: bytes.Repeat(append(bytes.Repeat([]byte("x"), 1000), '\n'), 9)}.Evidence()[0]
	require.Len(t, long, len("the program exited with 0: ")+maxLastLines*(maxEvidenceLen+3)-3)
	require.Equal(t, []string{"the kernel stopped without a word, as it does where memory runs out: give the machine more"}, Evidence([]byte("[0.2] en1: assigned 10.0.0.2\n\nframe trace: \n")))
	require.Empty(t, Evidence([]byte("a frame trace: of ours\n")))
}

var evidenceOf = map[string][]string{
	"want":    {"the program tried to make a process, which Nanos can't"},
	"trace":   {"Nanos has no system call pidfd_open", "the program tried to make a process, which Nanos can't", "Nanos has no system call shmget"},
	"illegal": {"the program was ended by signal 4"},
	"nothing": {"the program did not start: (result:unable to open program file /bin/none)"},
}

func TestBootEvidence(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: realRelease(t)})
	guest, err := guestBinary()
	require.NoError(t, err)
	manifest := `{"Name":"guest","Version":"1","Program":"/bin/guest","Args":["want"]}`
	for name, c := range map[string]struct {
		program string
		change  func(*fleet.Manifest)
		code    int
	}{
		"want": {string(guest), nil, 2},
		"trace": {string(guest), func(m *fleet.Manifest) {
			m.Klibs = []string{"strace"}
			m.Passthrough = map[string]any{"debugsyscalls": "t"}
		}, 2},
		"illegal": {tinyELF(t, 0x0f, 0x0b), nil, 4}, // ud2
		"nothing": {string(guest), func(m *fleet.Manifest) { m.Program = "/bin/none" }, 127},
	} {
		t.Run(name, func(t *testing.T) {
			p := pack(t, manifest, map[string]string{"sysroot/bin/guest": c.program})
			if c.change != nil {
				c.change(&p.Manifest)
			}
			image := mustBuild(t, k, p)
			m := start(t, "net=10.0.2.0/24", "10.0.2.15", baseDisk(image)...)
			m.wait()
			if dir := os.Getenv("NANOS_TEST_LOGS"); dir != "" { // to renew testdata
				require.NoError(t, os.WriteFile(filepath.Join(dir, name+".log"), m.log.Bytes(), 0o644))
			}
			disk, l, _ := openDisk(t, image)
			require.NotNil(t, l)
			info, err := disk.Stat()
			require.NoError(t, err)
			exit, ok, err := ReadExit(disk, info.Size())
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, c.code, exit.Code)
			require.Equal(t, evidenceOf[name], Evidence(m.log.Bytes()))
		})
	}
}
