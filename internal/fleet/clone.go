package fleet

import (
	"strconv"
	"time"
)

const (
	// StepHoldClone is the step of OperationClone while its clone runs and is looked at.
	StepHoldClone = "hold-clone"
	// ObservedTimeToLive is how many seconds a clone runs, which its request writes.
	ObservedTimeToLive = "time_to_live_seconds"
	// MaxTimeToLive bounds how long a clone runs, and DefaultTimeToLive is how long else.
	MaxTimeToLive     = time.Hour
	DefaultTimeToLive = 15 * time.Minute
)

// TimeToLive is how long the operation's clone runs, counted from when it is healthy.
func (o *Operation) TimeToLive() time.Duration {
	n, err := strconv.Atoi(o.Observed[ObservedTimeToLive])
	if err != nil || n <= 0 {
		return DefaultTimeToLive
	}
	return min(time.Duration(n)*time.Second, MaxTimeToLive)
}
