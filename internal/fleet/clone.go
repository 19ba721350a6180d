package fleet

import "time"

const (
	// StepHoldClone is the step of OperationClone while its clone runs and is looked at.
	StepHoldClone = "hold-clone"
	// ObservedTimeToLive is how long a clone runs, which its request writes, as a time.Duration prints.
	ObservedTimeToLive = "time_to_live"
	// MaxTimeToLive bounds how long a clone runs, and DefaultTimeToLive is how long else.
	MaxTimeToLive     = time.Hour
	DefaultTimeToLive = 15 * time.Minute
)

// TimeToLive is how long the operation's clone runs, counted from when it is healthy.
func (o *Operation) TimeToLive() time.Duration {
	d, err := time.ParseDuration(o.Observed[ObservedTimeToLive])
	if err != nil || d <= 0 {
		return DefaultTimeToLive
	}
	return min(d, MaxTimeToLive)
}
