package guest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRestartsByPolicy(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	good, bad, killed := Ending{At: at}, Ending{Code: 1, At: at}, Ending{Code: -1, Signal: "SIGKILL", At: at}
	for name, tc := range map[string]struct {
		policy string
		end    Ending
		want   Verdict
	}{
		"AlwaysAfterSuccess":      {RestartAlways, good, Verdict{Delay: firstDelay}},
		"AlwaysAfterFailure":      {RestartAlways, bad, Verdict{Delay: firstDelay}},
		"OnFailureAfterSuccess":   {RestartOnFailure, good, Verdict{Gone: GoneExited}},
		"OnFailureAfterFailure":   {RestartOnFailure, bad, Verdict{Delay: firstDelay}},
		"OnFailureAfterSignal":    {RestartOnFailure, killed, Verdict{Delay: firstDelay}},
		"NeverAfterSuccess":       {RestartNever, good, Verdict{Gone: GoneExited}},
		"NeverAfterFailureEither": {RestartNever, bad, Verdict{Gone: GoneExited}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := Restarts{Policy: tc.policy}
			require.Equal(t, tc.want, r.Ended(tc.end))
		})
	}
}

func TestRestartsCrashLoop(t *testing.T) {
	t.Parallel()
	r := Restarts{Policy: RestartAlways}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	want := firstDelay
	for range LoopEnds - 1 {
		require.Equal(t, Verdict{Delay: want}, r.Ended(Ending{Code: 1, At: at}))
		at, want = at.Add(want), 2*want
	}
	require.Equal(t, Verdict{Gone: GoneCrashLoop}, r.Ended(Ending{Code: 1, At: at}))
	require.Equal(t, LoopEnds-1, r.Count)
}

func TestRestartsSlowFailureIsSlowedDownOnly(t *testing.T) {
	t.Parallel()
	r := Restarts{Policy: RestartAlways}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	var last Verdict
	for range 20 {
		last = r.Ended(Ending{Code: 1, Ran: 20 * time.Second, At: at})
		require.Empty(t, last.Gone)
		at = at.Add(20*time.Second + last.Delay)
	}
	require.Equal(t, maxDelay, last.Delay)
}

func TestRestartsForgetAfterSteadyRun(t *testing.T) {
	t.Parallel()
	r := Restarts{Policy: RestartAlways}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for range LoopEnds - 1 {
		r.Ended(Ending{Code: 1, At: at})
	}
	require.Equal(t, Verdict{Delay: firstDelay}, r.Ended(Ending{Code: 1, Ran: steadyAfter, At: at.Add(steadyAfter)}))
	require.Equal(t, LoopEnds, r.Count)
}
