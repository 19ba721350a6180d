package idle

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return v
}

// times are the next ones of a schedule after a moment, in UTC.
func times(t *testing.T, cron, zone, after string, n int) (out []string) {
	t.Helper()
	s := []fleet.Schedule{{Cron: cron, Zone: zone, Do: fleet.OperationWake}}
	require.NoError(t, Schedules{}.Check(s[0]))
	from := at(t, after)
	for range n {
		_, from = Schedules{}.Next(s, from)
		out = append(out, from.UTC().Format("01-02 15:04"))
	}
	return out
}

func TestDaylightSaving(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cron, zone, after string
		want              []string
	}{
		// 2026-03-29 02:00 +01 → 03:00 +02, 2026-10-25 03:00 +02 → 02:00 +01.
		"BerlinInTheGap":        {"30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", []string{"03-28 01:30", "03-29 01:00", "03-30 00:30"}},
		"BerlinTwiceInTheGap":   {"15,45 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"03-29 01:00", "03-30 00:15"}},
		"BerlinAtTheGapsEnd":    {"0 3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"03-29 01:00", "03-30 01:00"}},
		"BerlinEveryHourGap":    {"0 * * * *", "Europe/Berlin", "2026-03-28T23:30:00Z", []string{"03-29 00:00", "03-29 01:00", "03-29 02:00"}},
		"BerlinTwice":           {"30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", []string{"10-24 00:30", "10-25 00:30", "10-26 01:30"}},
		"BerlinTwiceFromWithin": {"30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", []string{"10-26 01:30"}},
		"BerlinEveryHourTwice":  {"0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", []string{"10-25 00:00", "10-25 02:00", "10-25 03:00"}},
		// 2026-03-08 02:00 -05 → 03:00 -04, 2026-11-01 02:00 -04 → 01:00 -05.
		"NewYorkInTheGap": {"30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", []string{"03-08 07:00", "03-09 06:30"}},
		"NewYorkTwice":    {"30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", []string{"11-01 05:30", "11-02 06:30"}},
		// Half an hour: 2026-10-04 02:00 +10:30 → 02:30 +11, 2026-04-05 02:00 +11 → 01:30 +10:30.
		"LordHoweInTheGap": {"15 2 * * *", "Australia/Lord_Howe", "2026-10-02T20:00:00Z", []string{"10-03 15:30", "10-04 15:15"}},
		"LordHoweTwice":    {"45 1 * * *", "Australia/Lord_Howe", "2026-04-03T20:00:00Z", []string{"04-04 14:45", "04-05 15:15"}},
		// A whole day is missing: 2011-12-30.
		"ApiaWithoutADay": {"0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", []string{"12-30 10:00", "12-29 22:00"}},
		"Leap":            {"0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"02-29 00:00"}},
	} {
		require.Equal(t, c.want, times(t, c.cron, c.zone, c.after, len(c.want)), name)
	}
}

// The first moment at which a clock on the wall shows a time, or has passed over it,
// found by walking through the moments.
func TestMomentIsTheFirst(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "America/St_Johns", "UTC"} {
		zone, err := time.LoadLocation(name)
		require.NoError(t, err)
		begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		first := map[time.Time]time.Time{} // by what the wall shows; the moments are half-hours and quarters
		var passed []time.Time
		var high time.Time
		for m := begin; m.Before(begin.AddDate(1, 0, 0)); m = m.Add(15 * time.Minute) {
			wall := asUTC(m.In(zone))
			if _, ok := first[wall]; !ok {
				first[wall] = m
			}
			for w := high.Add(15 * time.Minute); !high.IsZero() && w.Before(wall); w = w.Add(15 * time.Minute) {
				first[w] = m
				passed = append(passed, w)
			}
			if wall.After(high) {
				high = wall
			}
		}
		if name != "UTC" && name != "Asia/Kathmandu" {
			require.NotEmpty(t, passed, name)
		}
		for wall, want := range first {
			if r.IntN(20) == 0 || wall.Hour() < 4 {
				require.True(t, moment(wall, zone).Equal(want), "%s: %s is %s, not %s", name, wall, want, moment(wall, zone))
			}
		}
	}
}

func TestLastCountsOnce(t *testing.T) {
	t.Parallel()
	night := fleet.Schedule{Cron: "0 22 * * *", Zone: "Europe/Berlin", Do: fleet.OperationHibernate}
	day := fleet.Schedule{Cron: "0 8 * * 1-5", Zone: "Europe/Berlin", Do: fleet.OperationWake}
	minutely := fleet.Schedule{Cron: "* * * * *", Zone: "UTC", Do: fleet.OperationWake}
	noon := fleet.Schedule{Cron: "0 20 * * *", Zone: "UTC", Do: fleet.OperationWake}
	for name, c := range map[string]struct {
		schedules    []fleet.Schedule
		after, until string
		want         string
		do           fleet.OperationKind
	}{
		"None":            {[]fleet.Schedule{night, day}, "2026-06-01T06:00:00Z", "2026-06-01T19:59:00Z", "", ""},
		"OnTime":          {[]fleet.Schedule{night, day}, "2026-06-01T19:59:30Z", "2026-06-01T20:00:30Z", "2026-06-01T20:00:00Z", "hibernate"},
		"UntilCounts":     {[]fleet.Schedule{night}, "2026-06-01T19:59:30Z", "2026-06-01T20:00:00Z", "2026-06-01T20:00:00Z", "hibernate"},
		"AfterDoesNot":    {[]fleet.Schedule{night}, "2026-06-01T20:00:00Z", "2026-06-01T21:00:00Z", "", ""},
		"LatestOfTwo":     {[]fleet.Schedule{night, day}, "2026-05-29T00:00:00Z", "2026-06-01T06:30:00Z", "2026-06-01T06:00:00Z", "wake"},
		"LatestOfDays":    {[]fleet.Schedule{night, day}, "2026-04-01T00:00:00Z", "2026-05-31T12:00:00Z", "2026-05-30T20:00:00Z", "hibernate"},
		"LongAgo":         {[]fleet.Schedule{{Cron: "0 0 1 1 *", Zone: "UTC", Do: fleet.OperationWake}}, "2020-05-01T00:00:00Z", "2026-05-31T12:00:00Z", "2026-01-01T00:00:00Z", "wake"},
		"EveryMinute":     {[]fleet.Schedule{minutely}, "2020-01-01T00:00:00Z", "2026-05-31T12:00:30Z", "2026-05-31T12:00:00Z", "wake"},
		"BothAtOnce":      {[]fleet.Schedule{night, noon}, "2026-06-01T12:00:00Z", "2026-06-01T20:30:00Z", "2026-06-01T20:00:00Z", "wake"},
		"BothTheOtherWay": {[]fleet.Schedule{noon, night}, "2026-06-01T12:00:00Z", "2026-06-01T20:30:00Z", "2026-06-01T20:00:00Z", "wake"},
		"Unreadable":      {[]fleet.Schedule{{Cron: "x", Zone: "UTC"}, night}, "2026-06-01T12:00:00Z", "2026-06-01T20:30:00Z", "2026-06-01T20:00:00Z", "hibernate"},
		"ClockWentBack":   {[]fleet.Schedule{night}, "2026-06-02T12:00:00Z", "2026-06-01T20:30:00Z", "", ""},
	} {
		what, came := last(c.schedules, at(t, c.after), at(t, c.until))
		got := ""
		if !came.IsZero() {
			got = came.UTC().Format(time.RFC3339)
		}
		require.Equal(t, []any{c.want, c.do}, []any{got, what.Do}, name)
	}
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	good := fleet.Schedule{Cron: "*/5 8-18 * * MON-FRI", Zone: "America/Argentina/Buenos_Aires", Do: fleet.OperationHibernate}
	require.NoError(t, Schedules{}.Check(good))
	for _, c := range []struct {
		change func(*fleet.Schedule)
		field  string
	}{
		{func(s *fleet.Schedule) { s.Cron = "" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = "* * * *" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = "* * * * * *" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = "@hourly" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = "@every 1s" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = "60 * * * *" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = "*/0 * * * *" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = "TZ=0" }, "cron"}, // which the library panics on
		{func(s *fleet.Schedule) { s.Cron = "CRON_TZ=UTC * * * * *" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = "0 0 31 2 *" }, "cron"},
		{func(s *fleet.Schedule) { s.Cron = strings.Repeat("1,", 100) + "1 * * * *" }, "cron"},
		{func(s *fleet.Schedule) { s.Zone = "" }, "zone"},
		{func(s *fleet.Schedule) { s.Zone = "Local" }, "zone"},
		{func(s *fleet.Schedule) { s.Zone = "Europe/Atlantis" }, "zone"},
		{func(s *fleet.Schedule) { s.Zone = "../../etc/passwd" }, "zone"},
		{func(s *fleet.Schedule) { s.Zone = strings.Repeat("a", 100) }, "zone"},
		{func(s *fleet.Schedule) { s.Do = fleet.OperationDelete }, "do"},
		{func(s *fleet.Schedule) { s.Do = "" }, "do"},
	} {
		s := good
		c.change(&s)
		err := Schedules{}.Check(s)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%+v", s)
		var e *fleet.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, c.field, e.Field, "%+v", s)
		_, next := Schedules{}.Next([]fleet.Schedule{s}, time.Now())
		require.True(t, c.field == "do" || next.IsZero(), "%+v", s)
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add("*/5 8-18 * * MON-FRI", "Europe/Berlin", int64(1774744200))
	f.Add("TZ=0", "UTC", int64(0))
	f.Fuzz(func(t *testing.T, cron, zone string, unix int64) {
		s := fleet.Schedule{Cron: cron, Zone: zone, Do: fleet.OperationWake}
		if (Schedules{}).Check(s) != nil {
			return
		}
		from := time.Unix(unix%(1<<33), 0)
		_, next := Schedules{}.Next([]fleet.Schedule{s}, from)
		if !next.IsZero() && !next.After(from) {
			t.Fatalf("%+v after %s comes %s", s, from, next)
		}
		if _, came := last([]fleet.Schedule{s}, from, from.Add(time.Hour)); !came.IsZero() && (!came.After(from) || came.After(from.Add(time.Hour))) {
			t.Fatalf("%+v between %s and an hour later came %s", s, from, came)
		}
	})
}
