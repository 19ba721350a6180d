package kvm

import (
	"context"
	"io"
	"net"

	"dormouse/internal/fleet"
)

// Console reads an instance's console log, of all its boots as far as it is
// kept; a line "dormouse: boot N at TIME" begins each. A reader that follows
// goes on over restarts, and ends with io.EOF when ctx has ended or the instance
// has been deleted. The caller closes it.
func (p *Provider) Console(ctx context.Context, ref fleet.InstanceRef, options fleet.ConsoleOptions) (io.ReadCloser, error) {
	i := p.known(ref.ID)
	if i == nil {
		return nil, errUnknown(ref.ID)
	}
	if err := i.lock(ctx); err != nil {
		return nil, err
	}
	defer i.unlock()
	if !i.exists() {
		return nil, errUnknown(ref.ID)
	}
	return i.console().reader(ctx, options.TailLines, options.Follow)
}

// Dial connects to an endpoint's address, through the instances' network.
func (p *Provider) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return p.o.Network.DialContext(ctx, network, address)
}
