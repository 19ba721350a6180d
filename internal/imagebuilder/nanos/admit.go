package nanos

import (
	"cmp"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/elfdeps"
)

var _ imagebuilder.Admitter = (*Kernel)(nil)

// wishes are functions of the C library that Nanos can't or can hardly serve. A
// program may import them and never call them: mosquitto, memcached, nginx and MariaDB all import fork.
var wishes = []struct {
	names []string
	says  string
}{
	{[]string{"fork", "vfork", "_Fork", "clone", "clone3", "posix_spawn", "posix_spawnp", "execve", "execv", "execvp", "execvpe", "execl", "execlp", "execle", "fexecve", "system", "popen", "daemon", "forkpty", "wordexp"},
		"Nanos runs one process: where the program starts another one it fails, so have it stay in the foreground and without workers or helpers"},
	{[]string{"shmget", "shmat", "shmctl", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv"},
		"Nanos has no shared memory, semaphores and message queues of System V: configure the program to do without"},
	{[]string{"memfd_create"},
		"Nanos has memory files only with a module: add \"shmem\" to Klibs"},
}

// Admit implements imagebuilder.Admitter. The first boot's log says more (see Evidence).
func (k *Kernel) Admit(_ context.Context, in imagebuilder.AdmitInput) ([]string, error) {
	p := in.Package
	program, err := p.Tree.Open(p.Manifest.Program)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInvalid, "reading the program: %w", err)
	}
	head := make([]byte, len(elf.ELFMAG))
	if _, err := io.ReadFull(program, head); err != nil || string(head) != elf.ELFMAG {
		return nil, fleet.Errorf(fleet.KindInvalid, "%s is a script, and Nanos starts nothing but the program itself: name its interpreter as Program and the script as an argument, or use the kernel linux", p.Manifest.Program)
	}
	var warnings []string
	if user := p.Manifest.User; user != "" && user != "root" && user != "0" {
		warnings = append(warnings, fmt.Sprintf("nanos: User is %s, but Nanos has no users: the program runs as root of its own machine", user))
	}
	files := []string{p.Manifest.Program}
	static := true
	for _, r := range in.Reports {
		static = static && r.Interpreter == ""
		files = append(files, r.Libraries...)
	}
	if base := path.Base(p.Manifest.Program); (base == "mariadbd" || base == "mysqld") && !needsGuard(p.Tree) {
		warnings = append(warnings, fmt.Sprintf("nanos: %s is not linked against glibc, and so can't be kept from believing that Nanos's files survive a power cut without fsync: it loses committed rows; take a build for glibc", p.Manifest.Program))
	}
	if static {
		return append(warnings, fmt.Sprintf("nanos: %s is linked statically: what it wants of the kernel can't be told by reading, the first boot's log tells it", p.Manifest.Program)), nil
	}
	found, err := imports(p.Tree, files)
	if err != nil {
		return nil, err
	}
	for _, w := range wishes {
		by := map[string][]string{} // functions by file
		for _, name := range w.names {
			for _, file := range found[name] {
				if name == "memfd_create" && slices.Contains(p.Manifest.Klibs, "shmem") {
					continue
				}
				by[file] = append(by[file], name)
			}
		}
		if len(by) == 0 {
			continue
		}
		var who []string
		for _, file := range slices.SortedFunc(maps.Keys(by), programFirst(p.Manifest.Program)) {
			who = append(who, file+" imports "+strings.Join(by[file], ", "))
		}
		warnings = append(warnings, fmt.Sprintf("nanos: %s. %s", shorten(who), w.says))
	}
	return warnings, nil
}

// maxNamed is how many files one warning names.
const maxNamed = 4

func shorten(who []string) string {
	if more := len(who) - maxNamed; more > 0 {
		who = append(who[:maxNamed:maxNamed], fmt.Sprintf("%d more files", more))
	}
	return strings.Join(who, "; ")
}

func programFirst(program string) func(a, b string) int {
	return func(a, b string) int {
		if (a == program) != (b == program) {
			return map[bool]int{true: -1, false: 1}[a == program]
		}
		return cmp.Compare(a, b)
	}
}

// imports returns, by function that is wished for, the files that import it.
func imports(tree elfdeps.Tree, files []string) (map[string][]string, error) {
	wanted := map[string]bool{}
	for _, w := range wishes {
		for _, name := range w.names {
			wanted[name] = true
		}
	}
	found := map[string][]string{}
	for _, file := range wantedOnce(files) {
		names, err := elfdeps.Imports(tree, file)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if wanted[name] {
				found[name] = append(found[name], file)
			}
		}
	}
	return found, nil
}

func wantedOnce(files []string) []string {
	files = slices.Clone(files)
	slices.Sort(files)
	return slices.Compact(files)
}
