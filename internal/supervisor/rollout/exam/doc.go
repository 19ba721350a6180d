// Package exam examines the judge of rollouts: it plays releases, good and bad
// ones, in memory and in simulated time, and counts what Decide made of them.
//
// A corpus says what each release is like (docs/exam-corpus.md). Play makes a fleet
// of it, carries out what Decide says as the workflows do, and shows Decide
// nothing but what a provider or a health check would report: whether an
// operation succeeded, and the last answers of each installation. Which
// installations a defect is in for is known to the world alone.
//
// Play is deterministic: chance is a hash of the release's seed, the installation and
// what is asked, so that another decision does not change anybody else's fate.
package exam
