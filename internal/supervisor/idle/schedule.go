package idle

import (
	"strings"
	"time"
	_ "time/tzdata" // the machine may have none

	"github.com/robfig/cron/v3"

	"dormouse/internal/fleet"
)

// Bounds of what a schedule may hold, in bytes.
const (
	maxCron = 128
	maxZone = 64
)

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// timetable is a schedule that was read.
type timetable struct {
	wall cron.Schedule
	zone *time.Location
}

func read(s fleet.Schedule) (timetable, error) {
	switch {
	case len(s.Cron) > maxCron:
		return timetable{}, fleet.InvalidField("cron", "the time fields have more than %d characters", maxCron)
	case strings.Contains(s.Cron, "="):
		// The library takes a zone there, too, and panics on some.
		return timetable{}, fleet.InvalidField("cron", "%q holds an equals sign: give the zone by itself", s.Cron)
	case s.Zone == "", s.Zone == "Local", len(s.Zone) > maxZone:
		return timetable{}, fleet.InvalidField("zone", "%q is not a time zone: give a name of the IANA database, such as Europe/Berlin", s.Zone)
	}
	wall, err := parser.Parse(s.Cron)
	if err != nil {
		return timetable{}, fleet.InvalidField("cron", "%q is not five fields as in crontab(5), minute, hour, day, month and day of the week: %w", s.Cron, err)
	}
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		return timetable{}, fleet.InvalidField("zone", "%q is not a time zone: give a name of the IANA database, such as Europe/Berlin", s.Zone)
	}
	return timetable{wall, zone}, nil
}

// Schedules reads schedules for the API. Its zero value is ready.
type Schedules struct{}

// Check refuses with KindInvalid what is no schedule or never comes; the field is
// cron, zone or do.
func (Schedules) Check(s fleet.Schedule) error {
	if s.Do != fleet.OperationHibernate && s.Do != fleet.OperationWake {
		return fleet.InvalidField("do", "a schedule can %s and %s, not %q", fleet.OperationHibernate, fleet.OperationWake, s.Do)
	}
	t, err := read(s)
	if err != nil {
		return err
	}
	if t.wall.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return fleet.InvalidField("cron", "%q never comes: there is no such day", s.Cron)
	}
	return nil
}

// Next returns which of the schedules comes first after a moment, and when; the zero
// time where none ever does. What can't be read never comes.
func (Schedules) Next(schedules []fleet.Schedule, after time.Time) (first fleet.Schedule, at time.Time) {
	for _, s := range schedules {
		t, err := read(s)
		if err != nil {
			continue
		}
		next := t.next(after)
		if !next.IsZero() && (at.IsZero() || next.Before(at) || next.Equal(at) && s.Do == fleet.OperationWake) {
			first, at = s, next
		}
	}
	return first, at
}

// last returns which of the schedules came last after one moment and until another,
// and when; the zero time where none did.
func last(schedules []fleet.Schedule, after, until time.Time) (latest fleet.Schedule, at time.Time) {
	for _, s := range schedules {
		t, err := read(s)
		if err != nil {
			continue
		}
		came := t.last(after, until)
		if !came.IsZero() && (came.After(at) || came.Equal(at) && s.Do == fleet.OperationWake) {
			latest, at = s, came
		}
	}
	return latest, at
}

// next goes through the times of a clock on the wall, of which each belongs to one
// moment: later times on the wall belong to no earlier moments.
func (t timetable) next(after time.Time) time.Time {
	wall := asUTC(after.In(t.zone))
	for {
		if wall = t.wall.Next(wall); wall.IsZero() {
			return time.Time{}
		}
		// One that is not after is a time that exists twice, between the two.
		if at := moment(wall, t.zone); at.After(after) {
			return at
		}
	}
}

// last looks back in ever longer steps, so that a schedule of every minute is not
// followed through the weeks that nobody looked.
func (t timetable) last(after, until time.Time) time.Time {
	const day = 24 * time.Hour
	for _, back := range []time.Duration{time.Hour, day, 32 * day, 0} {
		from := until.Add(-back)
		if back == 0 || from.Before(after) {
			from = after
		}
		var came time.Time
		for at := t.next(from); !at.IsZero() && !at.After(until); at = t.next(at) {
			came = at
		}
		if !came.IsZero() || from.Equal(after) {
			return came
		}
	}
	return time.Time{}
}

// asUTC is the time on the wall, as if it were UTC's.
func asUTC(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// moment returns when a clock on the wall first shows a time, or the end of the gap
// that it lies in.
func moment(wall time.Time, zone *time.Location) time.Time {
	near := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	start, end := near.ZoneBounds()
	// Where the zone's rules change nearby, what holds is among these.
	tries := []time.Time{near}
	if !start.IsZero() {
		tries = append(tries, start.Add(-time.Second))
	}
	if !end.IsZero() {
		tries = append(tries, end)
	}
	var first time.Time
	for _, t := range tries {
		_, offset := t.In(zone).Zone()
		at := wall.Add(-time.Duration(offset) * time.Second).In(zone)
		if asUTC(at).Equal(wall) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if !first.IsZero() {
		return first
	}
	for _, gap := range []time.Time{start, end} {
		if !gap.IsZero() && asUTC(gap.Add(-time.Second).In(zone)).Before(wall) && asUTC(gap.In(zone)).After(wall) {
			return gap
		}
	}
	return near
}
