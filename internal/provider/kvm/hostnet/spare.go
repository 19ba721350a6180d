package hostnet

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// spareName is what spare taps are called: no name of an instance's port, so that
// nobody takes one for that.
const spareName = "spare%d"

// Spare implements Network: the tap is on no bridge, down, and gone with its
// last descriptor.
func (b *Bridge) Spare(ctx context.Context) (Attachment, error) {
	if err := b.lock(ctx); err != nil {
		return Attachment{}, err
	}
	defer b.mu.Unlock()
	var tap *os.File
	if err := b.ns.do(func() (err error) { tap, err = openSpare(); return err }); err != nil {
		return Attachment{}, fmt.Errorf("making a spare tap: %w", err)
	}
	return Attachment{TapFD: tap, NetdevArgs: tapNetdev}, nil
}

// openSpare must run on the namespace's thread.
func openSpare() (*os.File, error) {
	f, err := openQueue(spareName)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("no name of the kind %s is free: %w", spareName, err)
	}
	return f, err
}

// Spare implements Network: a guest reaches nobody, and nobody it.
func (u *User) Spare(context.Context) (Attachment, error) {
	return Attachment{NetdevArgs: func(int) string { return netdevValue(nil) }}, nil
}
