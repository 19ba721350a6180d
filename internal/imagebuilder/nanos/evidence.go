package nanos

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Bounds on what is read of a log and told of it.
const (
	maxEvidenceLog = 16 << 20
	maxEvidence    = 50
	maxEvidenceLen = 200
)

// evidence is what the kernel says where a program wants what it has not, or ends badly
// (src/unix/thread.c, signal.c, socket.c, futex.c, src/kernel/stage3.c, src/runtime/runtime.h, klib/strace.c).
var evidence = []struct {
	pattern *regexp.Regexp
	says    string
}{
	{regexp.MustCompile(`\[\d+\] (?:clone3?|fork|vfork)\([^\n]*\) = -ENOSYS`), "the program tried to make a process, which Nanos can't"},
	{regexp.MustCompile(`clone: attempted to create new process`), "the program tried to make a process, which Nanos can't"},
	{regexp.MustCompile(`\[\d+\] ([a-z0-9_]+)\([^\n]*\) = -ENOSYS`), "Nanos has no system call $1"},
	{regexp.MustCompile(`((?:get|set)sockopt) unimplemented: fd \d+, level (\d+), optname (\d+)`), "Nanos has no $1 of level $2, option $3"},
	{regexp.MustCompile(`futex op (\d+) not implemented`), "Nanos has no futex operation $1"},
	{regexp.MustCompile(`sigaction flag (SA_[A-Z]+) unsupported`), "Nanos ignores the flag $1 of sigaction"},
	{regexp.MustCompile(`\*\*\* signal (\d+) received by tid`), "the program was ended by signal $1"},
	{regexp.MustCompile(`program startup failed (?:before|on) exec: ([^\n]+)`), "the program did not start: $1"},
	{regexp.MustCompile(`(assertion [^\n]+ failed at [^\n]+)`), "the kernel stopped: $1"},
	{regexp.MustCompile(`(multiple root filesystems found|unable to open filesystem: [^\n]+|klib automatic load failed [^\n]+)`), "the kernel stopped: $1"},
	{regexp.MustCompile(`(storage: (?:mount point|invalid mount point) [^\n]+|cannot mount filesystem: [^\n]+)`), "a volume was not mounted: $1"},
	{regexp.MustCompile(`(page fault|general protection fault|double fault)[^\n]* in kernel mode|unhandled (?:kernel )?fault`), "the kernel crashed"},
}

var unnamedCall = regexp.MustCompile(`syscall_\d+`)

// unnamed are the calls that klib strace knows by number only, as far as
// programs ask for them (Linux: arch/x86/entry/syscalls/syscall_64.tbl). glibc asks for rseq at every start
// and does without: that says nothing of the program.
var unnamed = map[string]string{
	"syscall_334": "", "syscall_424": "pidfd_send_signal", "syscall_434": "pidfd_open", "syscall_435": "clone3", "syscall_436": "close_range", "syscall_437": "openat2",
	"syscall_438": "pidfd_getfd", "syscall_439": "faccessat2", "syscall_441": "epoll_pwait2", "syscall_444": "landlock_create_ruleset", "syscall_449": "futex_waitv",
}

// Evidence returns what a console log says of what the kernel lacks for a
// program, and of how it ended: each thing once, in the order of appearance. A missing system call is
// named only where the log has a trace of system calls (klib strace, debugsyscalls in the kernel's
// manifest). The log is the guest's own: it may say anything.
func Evidence(log []byte) []string {
	log = log[max(0, len(log)-maxEvidenceLog):]
	var found []string
	for line := range bytes.Lines(log) {
		for _, e := range evidence {
			m := e.pattern.FindSubmatchIndex(line)
			if m == nil {
				continue
			}
			says := printable(string(e.pattern.Expand(nil, []byte(e.says), line, m)))
			if number := unnamedCall.FindString(says); number != "" {
				name, ok := unnamed[number]
				if ok && name == "" {
					break
				} else if ok {
					says = strings.ReplaceAll(says, number, name)
				}
			}
			if !slices.Contains(found, says) {
				found = append(found, says)
			}
			break
		}
		if len(found) >= maxEvidence {
			return found
		}
	}
	// Where memory runs out this is all that reaches the console (src/kernel/kernel.c),
	// and the machine stands still.
	if bytes.HasSuffix(bytes.TrimSpace(log), []byte("\nframe trace:")) {
		found = append(found, "the kernel stopped without a word, as it does where memory runs out: give the machine more")
	}
	return found
}

// kernelsOwn is a line that the kernel says, not the program: after the time since its
// start, or of the trace of system calls.
var kernelsOwn = regexp.MustCompile(`^\[\d+\.\d+\] |^\*\*\* signal |^exit status |^\[\d+\] [a-z0-9_]+\(`)

// maxLastLines is how many of the program's last lines are told with its exit code:
// programs often end with a whole sentence, broken over several lines.
const maxLastLines = 4

// Evidence returns what the kernel's last words say: the exit code first, with
// the last lines that the program wrote.
func (e Exit) Evidence() []string {
	ended := fmt.Sprintf("the program exited with %d", e.Code)
	log := e.Log[max(0, len(e.Log)-maxEvidenceLog):]
	var last []string
	for line := range bytes.Lines(log) {
		if line = bytes.TrimSpace(line); len(line) == 0 || kernelsOwn.Match(line) {
			continue
		}
		if last = append(last, printable(string(line))); len(last) > maxLastLines {
			last = last[1:]
		}
	}
	if len(last) > 0 {
		ended += ": " + strings.Join(last, " / ")
	}
	return append([]string{ended}, Evidence(log)...)
}

// printable takes out what could do harm on a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), maxEvidenceLen)], "")
}
