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

// record is what is kept of an instance. The environment is not: it has
// secrets, and nothing here needs it.
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

	Epoch fleet.Epoch `json:"epoch"`
	Power fleet.Power `json:"power"`
	// Target and DueAt say where and when PowerPending ends, BadEnd that it
	// ends badly.
	Target fleet.Power `json:"target,omitempty"`
	DueAt  time.Time   `json:"due_at,omitzero"`
	BadEnd bool        `json:"bad_end,omitempty"`
	// Boots counts the power-ons.
	Boots        uint32            `json:"boots"`
	Health       fleet.HealthState `json:"health"`
	HealthDetail string            `json:"health_detail,omitempty"`
	Exit         *fleet.Exit       `json:"exit,omitempty"`
}

// volumeRecord is what is kept of a volume.
type volumeRecord struct {
	ID           fleet.VolumeID       `json:"id"`
	Installation fleet.InstallationID `json:"installation"`
	Host         fleet.HostID         `json:"host"`
	SizeMiB      int                  `json:"size_mib"`
	Epoch        fleet.Epoch          `json:"epoch"`
	CreatedAt    time.Time            `json:"created_at"`
}

// grave is the tombstone of an instance or a volume.
type grave struct {
	ID     string      `json:"id"`
	Volume bool        `json:"volume,omitempty"`
	Epoch  fleet.Epoch `json:"epoch"`
	At     time.Time   `json:"at"`
}

type graveKey struct {
	id     string
	volume bool
}

func (g grave) key() graveKey { return graveKey{g.ID, g.Volume} }

// change is one frame of the log or the snapshot; one of its fields is set.
type change struct {
	Instance *record       `json:"instance,omitempty"`
	Volume   *volumeRecord `json:"volume,omitempty"`
	Grave    *grave        `json:"grave,omitempty"`
}

func (c change) encode() ([]byte, error) { return json.Marshal(c) }

func decodeChange(payload []byte) (change, error) {
	var c change
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, fmt.Errorf("reading a record: %w", err)
	}
	if c.Instance == nil && c.Volume == nil && c.Grave == nil {
		return c, fmt.Errorf("reading a record: it is of a kind that this version does not know")
	}
	return c, nil
}

// refPrefix begins every ProviderRef.
const refPrefix = "sim:"

// status is what callers are told.
func (r *record) status(now time.Time) fleet.InstanceStatus {
	st := fleet.InstanceStatus{
		ID: r.ID, InstallationID: r.Installation, ProviderRef: refPrefix + string(r.ID), Epoch: r.Epoch,
		Power: r.Power, Health: r.Health, HealthDetail: r.HealthDetail, CreatedAt: r.CreatedAt,
	}
	if r.Exit != nil {
		exit := *r.Exit
		st.Exit = &exit
	}
	if r.Power == fleet.PowerPending {
		st.Again = max(r.DueAt.Sub(now), time.Millisecond)
	}
	return st
}

func (v *volumeRecord) status() fleet.VolumeStatus {
	return fleet.VolumeStatus{ID: v.ID, ProviderRef: refPrefix + string(v.ID), SizeMiB: v.SizeMiB, CreatedAt: v.CreatedAt}
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
	target, bad := r.Target, r.BadEnd
	r.Target, r.DueAt, r.BadEnd = "", time.Time{}, false
	r.HealthDetail = ""
	switch {
	case target == fleet.PowerOn && !bad:
		r.Power, r.Health = fleet.PowerOn, fleet.HealthHealthy
	case target == fleet.PowerOn:
		r.end(fleet.Exit{Reason: fleet.ReasonGuestPanic, Code: -1, At: now, LastLines: []string{"sim: injected panic while booting"}})
	case bad:
		r.end(fleet.Exit{Reason: fleet.ReasonGuestPanic, Code: -1, At: now, LastLines: []string{"sim: injected panic while stopping"}})
	default:
		r.end(fleet.Exit{At: now})
	}
}

// end switches the instance off with that exit.
func (r *record) end(exit fleet.Exit) {
	r.Power, r.Target, r.DueAt, r.BadEnd = fleet.PowerOff, "", time.Time{}, false
	r.Health, r.HealthDetail = fleet.HealthUnknown, ""
	r.Exit = &exit
}

// wanted is the power that the instance has or is on its way to.
func (r *record) wanted() fleet.Power {
	if r.Power == fleet.PowerPending {
		return r.Target
	}
	return r.Power
}
