// Package rollout decides how a rollout goes on. It is pure: Normalise, Plan and
// Decide are functions of their arguments alone, without I/O, clock or
// randomness, so that any process may take a rollout over at any moment, and a
// decision can be replayed from what was recorded.
//
//	Normalise  fills in a spec's defaults and refuses what makes no sense
//	Plan       gives each member its ring, wave and order
//	Decide     says what is to be done now, and when to ask again
//
// # What is expected of who carries decisions out
//
// A member goes waiting → rolling (or verifying, on a clone of a sleeper) when it is
// begun: Attempts rises by one, StartedAt is set, OperationID names the operation
// and FinishedAt is cleared. When the operation has succeeded, OperationID is
// cleared and FinishedAt set, and the member stays rolling: the health gate is
// Decide's, which lists it in Done or in RollBack. When the operation has failed
// (the update workflow has put the old release back), the member is failed, with
// the operation's reason. What is listed in RollBack becomes rolling-back, with the
// reason given, and rolled-back at the end: as soon as the old release runs again, for
// what its health is will be seen. An operation of Recall ends as one of RollBack
// does, and is nobody's failure. Reason and Detail of the last failure stay when
// a member is tried again: they tell how long it must be watched. Strikes rises by
// one with each failed operation and each entry of RollBack that has a reason, and is 0
// again for those in Cleared. A rolling member whose operation has ended is to be
// looked at HealthyFor after that: what it answered is what lets it pass.
//
// # Invariants
//
// Nothing new begins unless the rollout is running. Never are more members in
// work than there are slots, of which a rollback has more. Busy and gone members are never touched. The order
// of the members in the view does not matter. Tests hold all of these on random views.
//
// # The judge
//
// judge.go weighs evidence: see the comment there. It sees what providers and
// health checks report and nothing else; package exam puts it to the test.
package rollout
