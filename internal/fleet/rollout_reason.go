package fleet

// Why a rollout halted, or a member of it failed after its operation had succeeded.
const (
	// ReasonJudgedBad: what was observed says that the release is to blame.
	ReasonJudgedBad Reason = "judged-bad"
	// ReasonFailureLimit: more failures than the rollout allows.
	ReasonFailureLimit Reason = "failure-limit"
	// ReasonMetric: the metric gate was above its limit for long enough.
	ReasonMetric Reason = "metric-above-limit"
	// ReasonNoProgress: nothing came to an end within the progress deadline.
	ReasonNoProgress Reason = "no-progress"
	// ReasonTurnedUnhealthy: a member was healthy on the new release and is not any more.
	ReasonTurnedUnhealthy Reason = "turned-unhealthy"
)

// Why a rollout begins nothing new for the time being.
const (
	// WaitSoak: a wave or a ring is being watched.
	WaitSoak Reason = "soaking"
	// WaitSamples: too few members have been judged to leave the ring.
	WaitSamples Reason = "waiting-for-samples"
	// WaitEvidence: failures are suspicious; experiments will tell.
	WaitEvidence Reason = "waiting-for-evidence"
	// WaitObserver: installations that were not touched look bad in mass, so the
	// observer or the platform is in doubt.
	WaitObserver Reason = "observer-in-doubt"
	// WaitMetric: the metric gate is above its limit, or does not answer.
	WaitMetric Reason = "waiting-for-metric"
	// WaitMembers: every slot is used, or members are not yet free or not yet done.
	WaitMembers Reason = "waiting-for-members"
)
