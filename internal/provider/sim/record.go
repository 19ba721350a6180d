package sim

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"strconv"
	"time"

	"dormouse/internal/fleet"
)

// record is what is kept of an instance. The environment is not, but for
// BehaviourVariable: it has secrets.
type record struct {
	ID           fleet.InstanceID     `json:"id"`
	Installation fleet.InstallationID `json:"installation"`
	Name         string               `json:"name"`
	Host         fleet.HostID         `json:"host"`
	Volume       fleet.VolumeID       `json:"volume,omitempty"`
	Image        fleet.ImageID        `json:"image,omitempty"`
	MemoryMiB    int64                `json:"memory_mib"`
	Ports        []fleet.Port         `json:"ports,omitempty"`
	CreatedAt    time.Time            `json:"created_at"`
	Role         fleet.Role           `json:"role,omitempty"`
	// Clone: a throw-away copy, which uses a copy of the volume and not Volume.
	Clone bool `json:"clone,omitempty"`
	// Behaviour is what BehaviourVariable says.
	Behaviour string `json:"behaviour,omitempty"`

	Epoch fleet.Epoch `json:"epoch"`
	Power fleet.Power `json:"power"`
	// Target and DueAt say where and when PowerPending ends, BadEnd that it
	// ends badly.
	Target fleet.Power `json:"target,omitempty"`
	DueAt  time.Time   `json:"due_at,omitzero"`
	BadEnd bool        `json:"bad_end,omitempty"`
	// Boots counts the power-ons.
	Boots uint32 `json:"boots"`
	// Acts: this boot shows the behaviour. Crash: it ends as a crash, as that says.
	Acts  bool `json:"acts,omitempty"`
	Crash bool `json:"crash,omitempty"`
	// OnAt and OffAt are when it came on and went off last, in microseconds since
	// 1970 (a time.Time costs three times as much to write); 0 is never.
	OnAt  int64 `json:"on_at_us,omitempty"`
	OffAt int64 `json:"off_at_us,omitempty"`
	// Health is the health but for what the behaviour and the background do to it.
	Health       fleet.HealthState `json:"health"`
	HealthDetail string            `json:"health_detail,omitempty"`
	Exit         *fleet.Exit       `json:"exit,omitempty"`
	// Asleep is how much is kept of an instance that was suspended, from the
	// moment that it was asked for; empty of one that is not asleep. Resumed: it was
	// not booted, the last time that it came on.
	Asleep  fleet.SleepTier `json:"asleep,omitempty"`
	Resumed bool            `json:"resumed,omitempty"`
}

// volumeRecord is what is kept of a volume.
type volumeRecord struct {
	ID           fleet.VolumeID       `json:"id"`
	Installation fleet.InstallationID `json:"installation"`
	Host         fleet.HostID         `json:"host"`
	SizeMiB      int                  `json:"size_mib"`
	Epoch        fleet.Epoch          `json:"epoch"`
	CreatedAt    time.Time            `json:"created_at"`
	// Overlay: what is written may be dropped.
	Overlay bool `json:"overlay,omitempty"`
}

// grave is the tombstone of an instance or a volume.
type grave struct {
	ID     string `json:"id"`
	Volume bool   `json:"volume,omitempty"`
	// Born: there was such an instance once.
	Born  bool        `json:"born,omitempty"`
	Epoch fleet.Epoch `json:"epoch"`
	At    time.Time   `json:"at"`
}

type graveKey struct {
	id     string
	volume bool
}

func (g grave) key() graveKey { return graveKey{g.ID, g.Volume} }

// clusterRecord is what Configure was told of a cluster.
type clusterRecord struct {
	Name     string            `json:"name"`
	Settings map[string]string `json:"settings"`
}

// change is one frame of the log or the snapshot; one of its fields is set.
type change struct {
	Instance *record        `json:"instance,omitempty"`
	Volume   *volumeRecord  `json:"volume,omitempty"`
	Grave    *grave         `json:"grave,omitempty"`
	Cluster  *clusterRecord `json:"cluster,omitempty"`
	// Made ends a snapshot: what has been counted so far.
	Made *Made `json:"made,omitempty"`
}

func (c change) encode() ([]byte, error) { return json.Marshal(c) }

func decodeChange(payload []byte) (change, error) {
	var c change
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, fmt.Errorf("reading a record: %w", err)
	}
	if c == (change{}) {
		return c, fmt.Errorf("reading a record: it is of a kind that this version does not know")
	}
	return c, nil
}

// refPrefix begins every ProviderRef.
const refPrefix = "sim:"

// status is what callers are told, but for what changes by itself.
func (r *record) status(now time.Time) fleet.InstanceStatus {
	st := fleet.InstanceStatus{
		ID: r.ID, InstallationID: r.Installation, ProviderRef: refPrefix + string(r.ID), Epoch: r.Epoch, Clone: r.Clone,
		Power: r.Power, Health: r.Health, HealthDetail: r.HealthDetail, CreatedAt: r.CreatedAt,
	}
	if r.Exit != nil {
		exit := *r.Exit
		st.Exit = &exit
	}
	switch {
	case r.Power == fleet.PowerOff && r.Asleep != "":
		st.Exit = nil // it has not ended, it sleeps
		st.Asleep, st.Saved = true, &fleet.Saved{Tier: r.Asleep, At: time.UnixMicro(r.OffAt).UTC()}
	case r.Power == fleet.PowerOn && r.Resumed:
		st.Start = fleet.StartResumed
	case r.Power == fleet.PowerOn:
		st.Start = fleet.StartBooted
	}
	if r.Power == fleet.PowerPending {
		st.Again = max(r.DueAt.Sub(now), time.Millisecond)
	}
	return st
}

func (v *volumeRecord) status() fleet.VolumeStatus {
	return fleet.VolumeStatus{ID: v.ID, InstallationID: v.Installation, Overlay: v.Overlay, ProviderRef: refPrefix + string(v.ID), SizeMiB: v.SizeMiB, CreatedAt: v.CreatedAt}
}

// endpoints returns addresses on the loopback network that belong to the
// instance alone (as far as 22 bits tell them apart), and where nobody answers.
func (r *record) endpoints() []fleet.Endpoint {
	h := fnv.New32a()
	_, _ = h.Write([]byte(r.ID))
	sum := h.Sum32()
	// 127.64.0.0/10, away from the addresses that people use; never .0 or .255.
	address := net.IPv4(127, 64+byte(sum>>16)%64, byte(sum>>8), 1+byte(sum)%254).String()
	endpoints := make([]fleet.Endpoint, len(r.Ports))
	for i, port := range r.Ports {
		endpoints[i] = fleet.Endpoint{Port: port.Number, Protocol: port.Protocol, Name: port.Name,
			Address: net.JoinHostPort(address, strconv.Itoa(port.Number))}
	}
	return endpoints
}

// finish ends a pending change of power.
func (r *record) finish(now time.Time) {
	target, bad, crash := r.Target, r.BadEnd, r.Crash
	r.Target, r.DueAt, r.BadEnd, r.Crash = "", time.Time{}, false, false
	r.HealthDetail = ""
	switch {
	case target == fleet.PowerOn && crash:
		r.end(now, fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 1, LastLines: []string{"sim: crashed at its start, as " + BehaviourVariable + " says"}})
	case target == fleet.PowerOn && bad:
		r.end(now, fleet.Exit{Reason: fleet.ReasonGuestPanic, Code: -1, LastLines: []string{"sim: injected panic while booting"}})
	case target == fleet.PowerOn:
		r.Power, r.Health, r.OnAt = fleet.PowerOn, fleet.HealthHealthy, now.UnixMicro()
	case bad:
		r.end(now, fleet.Exit{Reason: fleet.ReasonGuestPanic, Code: -1, LastLines: []string{"sim: injected panic while stopping"}})
	default:
		r.end(now, fleet.Exit{})
	}
}

// end switches the instance off with that exit, which is now unless it says when.
func (r *record) end(now time.Time, exit fleet.Exit) {
	if exit.At.IsZero() {
		exit.At = now
	}
	r.Power, r.Target, r.DueAt, r.BadEnd, r.Crash = fleet.PowerOff, "", time.Time{}, false, false
	r.Health, r.HealthDetail = fleet.HealthUnknown, ""
	r.OffAt = now.UnixMicro()
	if exit.Reason != "" {
		r.Asleep = ""
	}
	r.Exit = &exit
}

// wanted is the power that the instance has or is on its way to.
func (r *record) wanted() fleet.Power {
	if r.Power == fleet.PowerPending {
		return r.Target
	}
	return r.Power
}
