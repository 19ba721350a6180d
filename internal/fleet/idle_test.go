package fleet

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// filled returns a value of which no field is zero.
func filled[T any](t *testing.T, seed int) T {
	t.Helper()
	var v T
	r := reflect.ValueOf(&v).Elem()
	for i := range r.NumField() {
		switch f := r.Field(i); f.Kind() {
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int:
			f.SetInt(int64(seed))
		case reflect.String:
			f.SetString(string(rune('a' + seed)))
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), seed, seed))
		default:
			require.Fail(t, "a field of a kind that is not known here", f.Kind())
		}
	}
	return v
}

// Whoever adds a field must say what comes of it.
func TestOverKnowsAllFields(t *testing.T) {
	t.Parallel()
	own, group := filled[IdlePolicy](t, 1), filled[IdlePolicy](t, 2)
	require.Equal(t, own, own.Over(IdlePolicy{}))
	require.Equal(t, own, own.Over(group))
	require.Equal(t, group, IdlePolicy{}.Over(group))
	require.Equal(t, IdlePolicy{IdleAfterSeconds: 5}, IdlePolicy{IdleAfterSeconds: 5}.Over(IdlePolicy{Never: true}))
	require.Equal(t, IdlePolicy{Never: true}, IdlePolicy{Never: true}.Over(IdlePolicy{IdleAfterSeconds: 5}))

	rules, groups := filled[WakeRules](t, 1), filled[WakeRules](t, 2)
	require.Equal(t, rules, rules.Over(WakeRules{}))
	require.Equal(t, rules, rules.Over(groups))
	require.Equal(t, groups, WakeRules{}.Over(groups))
}

func TestIdleAndWakeChanges(t *testing.T) {
	t.Parallel()
	p, r := filled[IdlePolicy](t, 1), filled[WakeRules](t, 1)
	(*IdleChange)(nil).Apply(&p)
	(&IdleChange{}).Apply(&p)
	(*WakeChange)(nil).Apply(&r)
	(&WakeChange{}).Apply(&r)
	require.Equal(t, filled[IdlePolicy](t, 1), p)
	require.Equal(t, filled[WakeRules](t, 1), r)
	no, zero, none, list := false, 0, "", []string{}
	(&IdleChange{Never: &no, IdleAfterSeconds: &zero, MinimumAwakeSeconds: &zero, Schedules: &[]Schedule{}}).Apply(&p)
	require.Equal(t, IdlePolicy{}, p, "nothing is set: nothing is stored")
	(&WakeChange{Paths: &list, Methods: &list, UserAgents: &list, CIDRs: &list, RequireCookie: &none, RequireHeader: &none, WakesPerHour: &zero, Hidden: &no}).Apply(&r)
	require.Equal(t, WakeRules{}, r)
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]time.Duration{"": DefaultTimeToLive, "x": DefaultTimeToLive, "-1s": DefaultTimeToLive, "0": DefaultTimeToLive, "60": DefaultTimeToLive,
		"1m0s": time.Minute, "1h": time.Hour, "2h": MaxTimeToLive, "99999999999999999999h": DefaultTimeToLive} {
		require.Equal(t, want, (&Operation{Observed: map[string]string{ObservedTimeToLive: said}}).TimeToLive(), said)
	}
	require.Equal(t, DefaultTimeToLive, (&Operation{}).TimeToLive())
}
