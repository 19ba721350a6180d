package source

import (
	"bytes"
	"cmp"
	"debug/elf"
	"io"
	"path"
	"strings"
)

// maxScripts is how many interpreters may be scripts themselves (as Linux: BINPRM_MAX_RECURSION).
const maxScripts = 4

// maxShebang is how much of a script's first line Linux reads (BINPRM_BUF_SIZE).
const maxShebang = 256

// executables returns the ELF files that starting program executes.
func (t *Tree) executables(program string, env map[string]string) ([]string, error) {
	return t.executablesOf("Program", program, env, maxScripts)
}

// executablesOf follows at most depth scripts from program on.
func (t *Tree) executablesOf(asker, program string, env map[string]string, depth int) ([]string, error) {
	var elves []string
	for ; depth >= 0; depth-- {
		e, err := t.Lookup(program)
		switch {
		case err != nil && missing(err):
			return nil, invalid("%s is %s, which the image does not hold: put it into %s, or mend the path", asker, program, sysroot)
		case err != nil:
			return nil, invalid("%s can't be found in the image: %w", asker, err)
		case e.Kind != File:
			return nil, invalid("%s is %s, which is no regular file: name the program itself", asker, program)
		case e.Mode&0o111 == 0:
			return nil, invalid("%s is %s, which is not executable: chmod +x it before packing", asker, program)
		}
		head := make([]byte, maxShebang)
		n, err := t.Content(e).ReadAt(head, 0)
		if err != nil && err != io.EOF {
			return nil, storageError("reading the program again", err)
		}
		head = head[:n]
		if bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
			return append(elves, program), nil
		}
		if !bytes.HasPrefix(head, []byte("#!")) {
			return nil, invalid("%s is %s, which is neither an ELF file nor a script that begins with #!: name a program built for Linux on x86-64", asker, program)
		}
		line, _, _ := bytes.Cut(head[2:], []byte("\n"))
		words := strings.Fields(string(line))
		if len(words) == 0 || !absolute(words[0]) {
			return nil, invalid("the script %s names no interpreter by an absolute path in its first line: write #!/bin/sh or the like", program)
		}
		asker = "the interpreter of the script " + program
		program = words[0]
		if path.Base(program) != "env" || len(words) < 2 {
			continue
		}
		// env runs what the PATH leads to; it must be there as well.
		through, err := t.executablesOf(asker, program, env, depth-1)
		if err != nil {
			return nil, err
		}
		elves = append(elves, through...)
		if program, err = t.inPath(words[len(words)-1], env); err != nil {
			return nil, err
		}
	}
	return nil, invalid("Program is a script whose interpreters are scripts in turn, more than %d deep: name the program itself", maxScripts)
}

// inPath finds a command as execvp does.
func (t *Tree) inPath(command string, env map[string]string) (string, error) {
	if strings.Contains(command, "/") {
		return command, nil
	}
	search := cmp.Or(env["PATH"], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	for dir := range strings.SplitSeq(search, ":") {
		p := path.Join("/", dir, command)
		if e, err := t.Lookup(p); err == nil && e.Kind == File && e.Mode&0o111 != 0 {
			return p, nil
		}
	}
	return "", invalid("the script runs %s through env, which none of %s in the image holds: put it there", command, search)
}
