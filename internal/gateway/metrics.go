package gateway

import "time"

// Phase is a part of what a visitor of a sleeper waits for.
type Phase string

// The phases of the request that began a wake, in their order.
const (
	// PhaseQueue: from the request until the wake began.
	PhaseQueue Phase = "queue"
	// PhaseRestore: until the machine ran.
	PhaseRestore Phase = "restore"
	// PhaseReady: until it served, from the beginning where the Waker does not tell when the machine ran.
	PhaseReady Phase = "ready"
	// PhaseFirstByte: until the instance began to answer.
	PhaseFirstByte Phase = "first-byte"
	// PhaseAll is the sum.
	PhaseAll Phase = "all"
)

// Results of wakes.
const (
	WakeServed = "served" // it serves
	WakeFailed = "failed" // it does not
	WakeLate   = "late"   // it took longer than Options.WakeTime
)

// Metrics is told what the gateway does. Its methods are called concurrently
// and must return at once.
type Metrics interface {
	// Request is told of each request when it has ended, upgraded connections
	// included, plain TCP not. The status is 0 where the client was gone before an answer.
	Request(status int, elapsed time.Duration)
	// Lookup is told of each question to Routes: "found", "unknown" or "failed".
	Lookup(result string)
	// Wake is told of each wake when it has ended.
	Wake(result string)
	// Phase is told of each phase of a wake that served.
	Phase(phase Phase, elapsed time.Duration)
	// Refused is told of each answer of the gateway's own.
	Refused(reason string)
}

type noMetrics struct{}

func (noMetrics) Request(int, time.Duration) {}
func (noMetrics) Lookup(string)              {}
func (noMetrics) Wake(string)                {}
func (noMetrics) Phase(Phase, time.Duration) {}
func (noMetrics) Refused(string)             {}

// Load is what is going on now.
type Load struct {
	// Held requests wait for a machine; Open ones were passed on and have not ended.
	Held, Open int64
}

// Load returns what is going on now.
func (g *Gateway) Load() Load { return Load{Held: g.held.Load(), Open: g.open.Load()} }
