package api

import (
	"bufio"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// packageTypes are what a package's body may be sent as. What it is, its first
// bytes say.
func packageTypes() []string {
	return []string{"application/gzip", "application/x-gzip", "application/x-tar", "application/zstd", "application/octet-stream", multipartType}
}

const multipartType = "multipart/form-data"

// Bounds on what a query may name.
const (
	maxDebs     = 32
	maxFileName = 255
	maxImageRef = 512
)

// packageSource reads what the query says of a new package.
func packageSource(query url.Values) (PackageSource, error) {
	s := PackageSource{
		Name: query.Get("name"), Version: query.Get("version"), FileName: query.Get("filename"), OCI: query.Get("oci"), Deb: query["deb"],
		Kernel: fleet.KernelKind(query.Get("kernel")),
	}
	switch {
	case query.Has("name") && (!isPackageName(s.Name) || fleet.ValidID(s.Name)):
		return s, invalidQuery("name", "it must be 1 to 63 lower-case letters, digits and . _ - inside, and not look like an ID")
	case query.Has("version") && !isPackageVersion(s.Version):
		return s, invalidQuery("version", "it must be 1 to 63 letters, digits and . _ + ~ -")
	case len(s.FileName) > maxFileName:
		return s, invalidQuery("filename", "it must have at most %d bytes", maxFileName)
	case query.Has("oci") && (s.OCI == "" || len(s.OCI) > maxImageRef):
		return s, invalidQuery("oci", "it must be an image's reference of at most %d bytes, like registry/name:tag", maxImageRef)
	case query.Has("oci") && query.Has("deb"):
		return s, invalidQuery("deb", "a package is made from an image or from Debian's packages: leave out oci or deb")
	case len(s.Deb) > maxDebs:
		return s, invalidQuery("deb", "name at most %d packages; what they depend on comes with them", maxDebs)
	case query.Has("kernel") && s.Kernel != fleet.KernelLinux && s.Kernel != fleet.KernelNanos:
		return s, invalidQuery("kernel", "it must be %s or %s", fleet.KernelLinux, fleet.KernelNanos)
	case query.Has("disk") && query.Get("disk") != "true" && query.Get("disk") != "false":
		return s, invalidQuery("disk", "it must be true or false")
	case query.Get("disk") == "true" && (query.Has("oci") || query.Has("deb")):
		return s, invalidQuery("disk", "a disk is what the body holds: leave out oci and deb")
	case query.Get("disk") == "true" && query.Has("kernel"):
		return s, invalidQuery("kernel", "a disk starts what is on it: leave out kernel")
	case query.Has("force") && query.Get("force") != "true" && query.Get("force") != "false":
		return s, invalidQuery("force", "it must be true or false")
	}
	if slices.ContainsFunc(s.Deb, func(name string) bool { return !isDebName(name) }) {
		return s, invalidQuery("deb", "it must be the name of a Debian package: 2 to 100 lower-case letters, digits and + - .")
	}
	s.Signature = query.Get("signature")
	s.Force, s.Disk = query.Get("force") == "true", query.Get("disk") == "true"
	return s, nil
}

// isDebName follows Debian's policy (section 5.6.1).
func isDebName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return len(s) >= 2 && len(s) <= 100
}

// from takes the body as what it is: the source, or what is laid over it.
func (s PackageSource) from(r *http.Request, body io.Reader) (PackageSource, error) {
	elsewhere := s.OCI != "" || len(s.Deb) > 0
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // has been checked
	if kind == multipartType {
		if params["boundary"] == "" {
			return s, fleet.Errorf(fleet.KindInvalid, "the Content-Type names no boundary: say what separates the form's parts")
		}
		return s.fromParts(multipart.NewReader(body, params["boundary"]), elsewhere)
	}
	if !elsewhere {
		s.Body = body
		return s, nil
	}
	buffered := bufio.NewReader(body)
	if _, err := buffered.Peek(1); errors.Is(err, io.EOF) {
		return s, nil
	}
	s.Overlay = buffered
	return s, nil
}

// fromParts takes a form of overlay and source, of which only the first part is
// looked at here: the other comes when that has been read.
func (s PackageSource) fromParts(parts *multipart.Reader, elsewhere bool) (PackageSource, error) {
	part, err := parts.NextRawPart()
	if err != nil {
		return s, formError(err)
	}
	source := &sourcePart{parts: parts}
	switch name := part.FormName(); {
	case name == "overlay":
		s.Overlay = part
		if elsewhere {
			return s, nil
		}
	case name == "source" && !elsewhere:
		source.part = part
	default:
		return s, fleet.Errorf(fleet.KindInvalid, "the form begins with the part %q: send overlay, and then source where the source is not elsewhere", printable(name))
	}
	s.Body = source
	return s, nil
}

// sourcePart is the last part of a form, found when it is first read.
type sourcePart struct {
	parts *multipart.Reader
	part  *multipart.Part
}

// Read implements io.Reader.
func (p *sourcePart) Read(b []byte) (int, error) {
	if p.part == nil {
		part, err := p.parts.NextRawPart()
		if err != nil {
			return 0, formError(err)
		}
		if part.FormName() != "source" {
			return 0, fleet.Errorf(fleet.KindInvalid, "the form's part after overlay is %q: it must be source", printable(part.FormName()))
		}
		p.part = part
	}
	n, err := p.part.Read(b)
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return n, formError(err)
	}
	if more, next := p.parts.NextRawPart(); next == nil {
		return n, fleet.Errorf(fleet.KindInvalid, "the form has the part %q behind source: overlay comes before it, and there is nothing else", printable(more.FormName()))
	} else if !errors.Is(next, io.EOF) {
		return n, formError(next)
	}
	return n, io.EOF
}

func formError(err error) error {
	if errors.Is(err, io.EOF) {
		return fleet.Errorf(fleet.KindInvalid, "the form lacks its part source: send it behind overlay")
	}
	return fleet.Errorf(fleet.KindInvalid, "the body is no whole form: check that it was sent to its end: %w", err)
}

// watchedBody remembers why a body could not be read, and gives up on one that
// stops coming.
type watchedBody struct {
	r        io.Reader
	conn     *http.ResponseController
	patience time.Duration
	err      error
}

func (b *watchedBody) Read(p []byte) (int, error) {
	_ = b.conn.SetReadDeadline(time.Now().Add(b.patience)) // a recorder in a test has none
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}
