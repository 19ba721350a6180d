package nanos

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// Nanos takes MAP_SYNC for every file (src/unix/mmap.c), though none of its files lies in
// memory that survives a power cut. A program may conclude from it that its log needs
// no fsync: MariaDB does (storage/innobase/log/log0log.cc, log_mmap), and loses committed
// rows. Linux says EOPNOTSUPP there (mmap(2)). The guard is a library of one function that says
// so as well, and passes everything else on. The loader loads it before all others, by
// ld.so.preload(8): the environment stays the tenant's.
const (
	guardPath   = oursDir + "/mapsync.so"
	preloadName = "ld.so.preload"
	maxPreload  = 64 << 10
)

// glibcLoader is what every dynamic program of glibc names as its interpreter (System V ABI, AMD64 supplement).
const glibcLoader = "/lib64/ld-linux-x86-64.so.2"

// needsGuard tells whether the image can hold programs that the guard is for:
// whichever of them a tenant starts, and whatever library maps the file. musl's loader knows no ld.so.preload.
func needsGuard(tree *source.Tree) bool {
	_, err := tree.Open(glibcLoader)
	return err == nil
}

// addGuard adds the library, and its name to what the package preloads itself.
func (p *plan) addGuard(tree *source.Tree) error {
	preload := "/" + guardPath + "\n"
	at := p.etc + "/" + preloadName
	if own, err := tree.Open("/etc/" + preloadName); err == nil {
		if own.Size() > maxPreload {
			return fleet.Failure(fleet.ReasonImageBuild, "/etc/%s has %d bytes: shorten it", preloadName, own.Size())
		}
		b, err := io.ReadAll(own)
		if err != nil {
			return err
		}
		preload += string(b)
	}
	for i := range p.items {
		if p.items[i].path == at {
			p.items = append(p.items[:i], p.items[i+1:]...)
			break
		}
	}
	p.text(at, preload)
	p.text(guardPath, string(guardLibrary()))
	return nil
}

// guardCode is mmap and mmap64, of which the fourth argument is the flags:
// MAP_SHARED_VALIDATE with MAP_SYNC is EOPNOTSUPP, all else is the system call.
var guardCode = []byte{
	0x89, 0xc8, // mov eax, ecx
	0x25, 0x0f, 0x00, 0x08, 0x00, // and eax, 0x8000f: MAP_SYNC and the type
	0x3d, 0x03, 0x00, 0x08, 0x00, // cmp eax, 0x80003
	0x74, 0x13, // je refuse
	0x49, 0x89, 0xca, // mov r10, rcx
	0xb8, 0x09, 0x00, 0x00, 0x00, // mov eax, 9
	0x0f, 0x05, // syscall
	0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, // cmp rax, -4095
	0x73, 0x06, // jae fail
	0xc3,                         // ret
	0xb8, 0xa1, 0xff, 0xff, 0xff, // refuse: mov eax, -95
	0xf7, 0xd8, // fail: neg eax
	0x53,       // push rbx
	0x89, 0xc3, // mov ebx, eax
	0xff, 0x15, 0, 0, 0, 0, // call [rip+__errno_location]
	0x89, 0x18, // mov [rax], ebx
	0x48, 0x83, 0xc8, 0xff, // or rax, -1
	0x5b, // pop rbx
	0xc3, // ret
}

// guardCall is where in guardCode the distance to the address of __errno_location stands.
const guardCall = 45

// guardLibrary returns the library: one segment of code and tables, one of data
// (ELF-64 Object File Format; System V ABI, AMD64 supplement).
func guardLibrary() []byte {
	const (
		symbolsAt, page = 64 + 4*56, 0x1000
		symbolSize      = 24
		relaSize        = 24
	)
	strtab := []byte("\x00mmap\x00mmap64\x00__errno_location\x00")
	at := func(name string) uint32 { return uint32(bytes.Index(strtab, []byte(name+"\x00"))) }
	stringsAt := uint64(symbolsAt + 4*symbolSize)
	hashAt := align8(stringsAt + uint64(len(strtab)))
	relaAt := hashAt + 8*4 // see hash
	codeAt := align8(relaAt + relaSize)
	codeEnd := codeAt + uint64(len(guardCode))
	got := uint64(page)
	dynamicAt := got + 8

	function := elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC)
	symbols := []elf.Sym64{
		{},
		{Name: at("mmap"), Info: function, Shndx: 1, Value: codeAt, Size: uint64(len(guardCode))},
		{Name: at("mmap64"), Info: function, Shndx: 1, Value: codeAt, Size: uint64(len(guardCode))},
		{Name: at("__errno_location"), Info: function},
	}
	hash := []uint32{1, 4, 1, 0, 2, 3, 0, 0} // one bucket of four symbols: 1, 2, 3
	rela := elf.Rela64{Off: got, Info: elf.R_INFO(3, uint32(elf.R_X86_64_GLOB_DAT))}
	dynamic := []uint64{
		uint64(elf.DT_HASH), hashAt, uint64(elf.DT_SYMTAB), symbolsAt, uint64(elf.DT_SYMENT), symbolSize, uint64(elf.DT_STRTAB), stringsAt,
		uint64(elf.DT_STRSZ), uint64(len(strtab)), uint64(elf.DT_RELA), relaAt, uint64(elf.DT_RELASZ), relaSize, uint64(elf.DT_RELAENT), relaSize, 0, 0,
	}
	end := dynamicAt + uint64(8*len(dynamic))
	code := bytes.Clone(guardCode)
	binary.LittleEndian.PutUint32(code[guardCall:], uint32(got-(codeAt+guardCall+4)))

	header := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 4}
	copy(header.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	progs := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Filesz: codeEnd, Memsz: codeEnd, Align: page},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: got, Vaddr: got, Paddr: got, Filesz: end - got, Memsz: end - got, Align: page},
		{Type: uint32(elf.PT_DYNAMIC), Flags: uint32(elf.PF_R | elf.PF_W), Off: dynamicAt, Vaddr: dynamicAt, Paddr: dynamicAt, Filesz: end - dynamicAt, Memsz: end - dynamicAt, Align: 8},
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16}, // without it the stack becomes executable
	}
	out := make([]byte, end)
	for _, part := range []struct {
		at uint64
		v  any
	}{{0, header}, {64, progs}, {symbolsAt, symbols}, {stringsAt, strtab}, {hashAt, hash}, {relaAt, rela}, {codeAt, code}, {dynamicAt, dynamic}} {
		var b bytes.Buffer
		if err := binary.Write(&b, binary.LittleEndian, part.v); err != nil {
			panic(err) // into memory, of fixed types: can't happen
		}
		copy(out[part.at:], b.Bytes())
	}
	return out
}

func align8(n uint64) uint64 { return (n + 7) &^ 7 }
