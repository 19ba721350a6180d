package elfdeps

import "path"

// Want is what the C library opens by itself (dlopen), so that no DT_NEEDED names it.
type Want struct {
	// Library is a file name that the loader looks for, or one with a directory
	// below the loader's (gconv/gconv-modules).
	Library string
	// WantedBy is the path of the file that imports what needs it.
	WantedBy string
	// For says what does not work without it.
	For string
}

// want is a thing that glibc opens when one of the functions is called.
type want struct {
	library   string
	functions []string
	purpose   string
	// until is the version of glibc that has it built in; "" for none.
	until string
	// matters: without it the program may fail, not only do less.
	matters bool
}

// wants lists them: glibc's NSS modules (nsswitch.conf(5); in libc itself since
// 2.34), the unwinder that pthread_cancel(3) and backtrace(3) load, and the
// converters of iconv(3) beside those for Unicode and ASCII.
func wants() []want {
	return []want{
		{library: "libnss_files.so.2", functions: []string{"getpwnam", "getpwuid", "getpwnam_r", "getpwuid_r", "getgrnam", "getgrgid", "getservbyname", "getaddrinfo", "gethostbyname"},
			purpose: "users, groups, hosts and services from files in /etc", until: "GLIBC_2.34", matters: true},
		{library: "libnss_dns.so.2", functions: []string{"getaddrinfo", "gethostbyname", "gethostbyname_r", "getnameinfo"},
			purpose: "host names from DNS", until: "GLIBC_2.34", matters: true},
		{library: "libgcc_s.so.1", functions: []string{"pthread_cancel", "pthread_exit", "backtrace"},
			purpose: "cancelling threads, which ends the program where it is missing", matters: true},
		{library: "gconv/gconv-modules", functions: []string{"iconv_open"}, purpose: "character sets beside Unicode and ASCII"},
	}
}

// wantedNames are the names by which wants are told in a string table. The end
// of another name is taken for one of them as well: then something is wanted
// without need, and nobody is refused.
func wantedNames() []string {
	var names []string
	for _, w := range wants() {
		names = append(names, w.functions...)
		if w.until != "" {
			names = append(names, w.until)
		}
	}
	return names
}

// want reports what the C library will open and the image lacks; only glibc
// has such things.
func (c *checker) want() {
	libc := c.seen["libc.so.6"]
	if c.libc.name != "glibc" || libc == nil {
		return
	}
	for _, w := range wants() {
		if w.until != "" && libc.file.mentions[w.until] {
			continue
		}
		by := c.importer(w.functions, libc)
		if by == nil || c.has(w.library, libc) {
			continue
		}
		c.report.Wanted = append(c.report.Wanted, Want{Library: w.library, WantedBy: by.path, For: w.purpose})
		if w.matters {
			c.warn("%s may want %s, which the image does not hold, for %s: put it beside libc.so.6", by.path, w.library, w.purpose)
		}
	}
}

// importer returns the first loaded file but libc that mentions one of the functions.
func (c *checker) importer(functions []string, libc *object) *object {
	for _, o := range c.order {
		if o == libc || isPartOfGlibc(path.Base(o.path)) {
			continue
		}
		for _, f := range functions {
			if o.file.mentions[f] {
				return o
			}
		}
	}
	return nil
}

// isPartOfGlibc tells of the libraries that define what is looked for.
func isPartOfGlibc(name string) bool {
	switch name {
	case "libpthread.so.0", "libdl.so.2", "librt.so.1", "libresolv.so.2", "libanl.so.1", "libutil.so.1", "libnsl.so.1", "libthread_db.so.1":
		return true
	}
	return false
}

// has tells whether the loader will find a library that libc opens.
func (c *checker) has(library string, libc *object) bool {
	if c.seen[library] != nil {
		return true
	}
	for _, p := range c.places(libc) {
		if c.probes++; c.probes > maxProbes {
			return false
		}
		full := path.Join(p.dir, library)
		if path.Dir(library) == "." {
			if c.usable(full) != nil {
				return true
			}
		} else if _, err := c.tree.Open(full); err == nil {
			return true
		} else if _, err := c.tree.Open(full + ".cache"); err == nil {
			return true
		}
	}
	return false
}
