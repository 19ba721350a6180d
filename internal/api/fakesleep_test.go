package api

import (
	"context"
	"time"

	"dormouse/internal/fleet"
)

// fakeSchedules knows one line, and one time.
type fakeSchedules struct{}

var scheduleTime = epochTime.Add(time.Hour)

func (fakeSchedules) Check(s fleet.Schedule) error {
	if s.Cron != "0 22 * * *" {
		return fleet.InvalidField("cron", "%q is not a schedule", s.Cron)
	}
	return nil
}

func (fakeSchedules) Next(schedules []fleet.Schedule, _ time.Time) (fleet.Schedule, time.Time) {
	if len(schedules) == 0 {
		return fleet.Schedule{}, time.Time{}
	}
	return schedules[0], scheduleTime
}

// traffic is what the fake tells of an installation.
func (f *fakeStore) told(v *fleet.InstallationView) fleet.Traffic {
	return fleet.Traffic{
		Activity: fleet.Activity{InstallationID: v.ID, Requests: 7, BytesIn: 70, BytesOut: 700, Open: 2, LastAt: epochTime},
		Name:     v.Name, State: v.State, Idle: v.Idle, ToldAt: epochTime, AwakeSince: epochTime.Add(-time.Hour), Now: epochTime.Add(time.Minute),
	}
}

func (f *fakeStore) Traffic(_ context.Context, idOrName string) (fleet.Traffic, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return fleet.Traffic{}, err
	}
	v := f.find(idOrName)
	if v == nil {
		return fleet.Traffic{}, fleet.Errorf(fleet.KindNotFound, "there is no installation %q", idOrName)
	}
	return f.told(v), nil
}

func (f *fakeStore) ListTraffic(_ context.Context, limit int) ([]fleet.Traffic, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	var all []fleet.Traffic
	for _, v := range f.installations {
		all = append(all, f.told(v))
	}
	return first(all, limit, func(t fleet.Traffic) string { return t.Name }), nil
}
