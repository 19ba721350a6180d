package fleet

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKindOf(t *testing.T) {
	t.Parallel()
	require.Equal(t, ErrorKind(""), KindOf(nil))
	require.Equal(t, KindInternal, KindOf(io.EOF), "an error of nobody's is a fault of ours")
	require.Equal(t, KindNotFound, KindOf(Errorf(KindNotFound, "there is none")))
	wrapped := fmt.Errorf("reading: %w", Errorf(KindStale, "old"))
	require.Equal(t, KindStale, KindOf(wrapped))
	require.Equal(t, KindStale, KindOf(errors.Join(io.EOF, wrapped)), "also behind others")
	require.Equal(t, KindConflict, KindOf(Errorf(KindConflict, "taken: %w", Errorf(KindStale, "old"))), "the first in the chain decides")
}

func TestErrorKeepsItsCause(t *testing.T) {
	t.Parallel()
	err := Errorf(KindUnavailable, "asking the host: %w", io.ErrUnexpectedEOF)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.EqualError(t, err, "asking the host: unexpected EOF")

	failure := Failure(ReasonImageBuild, "building: %w", io.EOF)
	require.Equal(t, KindPermanent, failure.Kind)
	require.Equal(t, ReasonImageBuild, failure.Reason)
	require.ErrorIs(t, failure, io.EOF)

	field := InvalidField("env.A", "must not be empty")
	require.Equal(t, KindInvalid, field.Kind)
	require.Equal(t, "env.A", field.Field)
	require.EqualError(t, field, "must not be empty")
}

func TestExitSaysHowItEnded(t *testing.T) {
	t.Parallel()
	for want, exit := range map[string]Exit{
		"the program ended with exit code 3":                                         {Code: 3},
		"the program was ended by signal SIGSEGV":                                    {Code: -1, Signal: "SIGSEGV"},
		"the program kept ending; the last time, the program ended with exit code 1": {Reason: ReasonCrashLoop, Code: 1},
		"the guest's kernel panicked; its last line was: b":                          {Reason: ReasonGuestPanic, LastLines: []string{"a", "b"}},
		"the virtual machine went away with its host":                                {Reason: ReasonHostLost},
	} {
		require.Equal(t, want, exit.String())
	}
}

func TestFirstEndpoint(t *testing.T) {
	t.Parallel()
	_, ok := FirstEndpoint(nil)
	require.False(t, ok)
	tcp, web := Endpoint{Port: 1883, Protocol: ProtocolTCP}, Endpoint{Port: 80, Protocol: ProtocolHTTP}
	first, ok := FirstEndpoint([]Endpoint{tcp, web, {Port: 81, Protocol: ProtocolHTTP}})
	require.True(t, ok)
	require.Equal(t, web, first, "HTTP goes first")
	first, _ = FirstEndpoint([]Endpoint{tcp, {Port: 1884, Protocol: ProtocolTCP}})
	require.Equal(t, tcp, first)
}
