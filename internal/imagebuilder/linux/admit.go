package linux

import (
	"context"
	"io"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/imagebuilder"
)

var _ imagebuilder.Admitter = (*Kernel)(nil)

// Admit implements imagebuilder.Admitter: what starts on Linux is told by the
// libraries, which have been checked; what is left is that the image knows the
// program's user.
func (k *Kernel) Admit(_ context.Context, in imagebuilder.AdmitInput) ([]string, error) {
	user := in.Package.Manifest.User
	if user == "" {
		return nil, nil
	}
	_, err := guest.FindUser(user, func(name string) (io.ReadCloser, error) {
		content, err := in.Package.Tree.Open("/etc/" + name)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(content), nil
	})
	if err != nil {
		return nil, fleet.InvalidField("User", "User is %q: %w", user, err)
	}
	return nil, nil
}
