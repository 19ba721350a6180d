package elfdeps

import (
	"fmt"
	"path"
	"strings"

	"dormouse/internal/fleet"
)

// Missing is the error of Check for what the image lacks; errors.As finds it.
type Missing struct {
	// Library is a DT_NEEDED name, or the path of a dynamic loader.
	Library string
	// NeededBy is the path of the file that asks for it.
	NeededBy string
	// Unusable is a file of that name that is there, and For what machine it is;
	// both empty where there is none.
	Unusable, For string
}

// Error implements error.
func (m *Missing) Error() string {
	if m.Unusable != "" {
		return fmt.Sprintf("%s needs %s, but %s is for %s: put the one for x86-64 in its place", m.NeededBy, m.Library, m.Unusable, m.For)
	}
	if strings.HasPrefix(m.Library, "/") {
		return fmt.Sprintf("%s needs the file %s, which the image does not hold: put it into sysroot, with Debian: dpkg -S %s names the package", m.NeededBy, m.Library, m.Library)
	}
	return fmt.Sprintf("%s needs the library %s, which is not where the image's loader looks: put it into sysroot/usr/lib/x86_64-linux-gnu, with Debian: `apt-file search %s` or `dpkg -S %s` names the package",
		m.NeededBy, m.Library, m.Library, m.Library)
}

// missing says what of that name there is, where it is for another machine.
func (c *checker) missing(library, by string, places []place) error {
	m := &Missing{Library: library, NeededBy: by}
	for _, p := range places {
		full := path.Join(p.dir, path.Base(library))
		if machine, ok := c.foreign[full]; ok {
			m.Unusable, m.For = full, machine
			break
		}
	}
	return fleet.Errorf(fleet.KindInvalid, "%w", m)
}

func missing(library, by string) error {
	return fleet.Errorf(fleet.KindInvalid, "%w", &Missing{Library: library, NeededBy: by})
}
