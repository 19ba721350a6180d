package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

func TestRestartsByPolicy(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	good, bad, killed := ending{at: at}, ending{code: 1, at: at}, ending{code: -1, signal: "SIGKILL", at: at}
	for name, tc := range map[string]struct {
		policy string
		end    ending
		want   verdict
	}{
		"AlwaysAfterSuccess":      {restartAlways, good, verdict{delay: firstDelay}},
		"AlwaysAfterFailure":      {restartAlways, bad, verdict{delay: firstDelay}},
		"OnFailureAfterSuccess":   {restartOnFailure, good, verdict{gone: guest.GoneExited}},
		"OnFailureAfterFailure":   {restartOnFailure, bad, verdict{delay: firstDelay}},
		"OnFailureAfterSignal":    {restartOnFailure, killed, verdict{delay: firstDelay}},
		"NeverAfterSuccess":       {restartNever, good, verdict{gone: guest.GoneExited}},
		"NeverAfterFailureEither": {restartNever, bad, verdict{gone: guest.GoneExited}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := restarts{policy: tc.policy}
			require.Equal(t, tc.want, r.ended(tc.end))
		})
	}
}

func TestRestartsCrashLoop(t *testing.T) {
	t.Parallel()
	r := restarts{policy: restartAlways}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	want := firstDelay
	for range loopEnds - 1 {
		require.Equal(t, verdict{delay: want}, r.ended(ending{code: 1, at: at}))
		at, want = at.Add(want), 2*want
	}
	require.Equal(t, verdict{gone: guest.GoneCrashLoop}, r.ended(ending{code: 1, at: at}))
	require.Equal(t, loopEnds-1, r.count)
}

func TestRestartsSlowFailureIsSlowedDownOnly(t *testing.T) {
	t.Parallel()
	r := restarts{policy: restartAlways}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	var last verdict
	for range 20 {
		last = r.ended(ending{code: 1, ran: 20 * time.Second, at: at})
		require.Empty(t, last.gone)
		at = at.Add(20*time.Second + last.delay)
	}
	require.Equal(t, maxDelay, last.delay)
}

func TestRestartsForgetAfterSteadyRun(t *testing.T) {
	t.Parallel()
	r := restarts{policy: restartAlways}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for range loopEnds - 1 {
		r.ended(ending{code: 1, at: at})
	}
	require.Equal(t, verdict{delay: firstDelay}, r.ended(ending{code: 1, ran: steadyAfter, at: at.Add(steadyAfter)}))
	require.Equal(t, loopEnds, r.count)
}
