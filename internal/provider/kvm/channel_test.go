package kvm

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

// A question outlives the connection that it was asked over, and only its own
// answer answers it.
func TestChannelAsks(t *testing.T) {
	t.Parallel()
	conns := make(chan net.Conn)
	ctx, cancel := context.WithCancel(t.Context())
	c := newChannel(ctx, func(ctx context.Context) (net.Conn, error) {
		select {
		case conn := <-conns:
			return conn, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, func(guest.Message) {}, channelOptions{Quiet: true})
	connect := func() (net.Conn, func() guest.Command) {
		ours, theirs := net.Pipe()
		conns <- ours
		lines := bufio.NewScanner(theirs)
		return theirs, func() (cmd guest.Command) {
			require.True(t, lines.Scan())
			require.NoError(t, json.Unmarshal(lines.Bytes(), &cmd))
			return cmd
		}
	}
	answered := make(chan error, 1)
	ask := func(verb guest.Verb) { go func() { answered <- c.ask(ctx, guest.Command{Verb: verb}) }() }

	ask(guest.VerbFreeze) // before anybody listens
	conn, next := connect()
	first := next()
	require.Equal(t, guest.VerbFreeze, first.Verb, "a quiet channel does not ping first")
	require.NoError(t, conn.Close())
	conn, next = connect()
	require.Equal(t, guest.VerbPing, next().Verb)
	again := next()
	require.Equal(t, first, again)
	say := func(m guest.Message) {
		m.Event = guest.EventDone
		line, err := guest.EncodeMessage(m)
		require.NoError(t, err)
		_, err = conn.Write(line)
		require.NoError(t, err)
	}
	say(guest.Message{ID: 1}) // to an earlier host
	require.Empty(t, answered)
	say(guest.Message{ID: again.ID})
	require.NoError(t, <-answered)
	say(guest.Message{ID: again.ID}) // twice

	ask(guest.VerbWake)
	say(guest.Message{ID: next().ID, Error: guest.UnknownVerb + ` "wake"`})
	require.ErrorIs(t, <-answered, errUnknownVerb)
	ask(guest.VerbThaw)
	say(guest.Message{ID: next().ID, Error: "no"})
	require.ErrorContains(t, <-answered, "it says: no")

	ask(guest.VerbSync)
	next()
	cancel()
	require.Error(t, <-answered)
	<-c.done
	require.Error(t, c.ask(t.Context(), guest.Command{Verb: guest.VerbSync}), "its machine has ended")
}
