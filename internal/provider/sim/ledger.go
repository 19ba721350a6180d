package sim

import (
	"slices"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// Call names a method of the provider.
type Call string

// The calls.
const (
	CallEnsure       Call = "ensure"
	CallClone        Call = "clone"
	CallObserve      Call = "observe"
	CallPowerOn      Call = "power-on"
	CallPowerOff     Call = "power-off"
	CallSuspend      Call = "suspend"
	CallEndSleep     Call = "end-sleep"
	CallDelete       Call = "delete"
	CallList         Call = "list"
	CallCheck        Call = "check"
	CallEnsureVolume Call = "ensure-volume"
	CallMoveVolume   Call = "move-volume"
	CallBeginOverlay Call = "begin-overlay"
	CallDropOverlay  Call = "drop-overlay"
	// CallCommitOverlay makes what was written since CallBeginOverlay part of the volume.
	CallCommitOverlay Call = "commit-overlay"
	CallDeleteVolume  Call = "delete-volume"
	CallListVolumes   Call = "list-volumes"
)

// Effect is what a call changed.
type Effect string

// The effects; empty is none.
const (
	EffectNone    Effect = ""
	EffectCreated Effect = "created"
	EffectPowered Effect = "powered"
	EffectDeleted Effect = "deleted"
	EffectGrown   Effect = "grown"
	// EffectMoved: it is on another host.
	EffectMoved Effect = "moved"
	// EffectEpoch: nothing but the highest epoch seen has changed.
	EffectEpoch Effect = "epoch"
)

// Entry is one call as the ledger remembers it.
type Entry struct {
	// Seq counts the calls from 1, in the order in which they ended.
	Seq     uint64          `json:"seq"`
	At      time.Time       `json:"at"`
	Cluster fleet.ClusterID `json:"cluster"`
	Call    Call            `json:"call"`
	// Object is the instance's, volume's or cluster's ID.
	Object string      `json:"object"`
	Epoch  fleet.Epoch `json:"epoch"`
	// Attempt counts this call on this object from 1; 0 where nothing is ever
	// drawn in this cluster, and so nothing is counted.
	Attempt uint32 `json:"attempt,omitempty"`
	Effect  Effect `json:"effect,omitempty"`
	// Fault is the one that was injected; empty is none. A page of List on which
	// several health checks went wrong has one of their faults.
	Fault Fault `json:"fault,omitempty"`
	// Kind is the kind of the error that was returned; empty is none.
	Kind fleet.ErrorKind `json:"kind,omitempty"`
}

// ledger counts all calls and keeps the last ones in a ring.
type ledger struct {
	mu     sync.Mutex
	since  time.Time
	counts map[count]uint64
	ring   []Entry
	size   int
	seq    uint64
}

// count is what calls are counted by.
type count struct {
	call   Call
	effect Effect
	fault  Fault
	kind   fleet.ErrorKind
}

func (l *ledger) add(e Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	l.counts[count{e.Call, e.Effect, e.Fault, e.Kind}]++
	if l.size <= 0 {
		return
	}
	e.Seq = l.seq
	if len(l.ring) < l.size {
		l.ring = append(l.ring, e)
		return
	}
	l.ring[(l.seq-1)%uint64(l.size)] = e
}

// record tells of a call that has ended.
func (p *Provider) record(e Entry) {
	if p.options.OnCall != nil {
		p.options.OnCall(e)
	}
	p.ledger.add(e)
}

// Ledger returns the last calls (Options.LedgerSize of them at most), oldest
// first. Where the first Seq is not 1, older ones have been dropped.
func (p *Provider) Ledger() []Entry {
	p.ledger.mu.Lock()
	defer p.ledger.mu.Unlock()
	entries := slices.Clone(p.ledger.ring)
	slices.SortFunc(entries, func(a, b Entry) int {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	})
	return entries
}
