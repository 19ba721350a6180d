// Package providertest is the one conformance suite for providers: what the
// supervisors rely on, checked from outside against every implementation.
//
// A provider's own test calls Run with a Harness. The suite knows nothing of
// the provider but the six methods of Provider and the powers that it finds by
// assertion (Volumes, VolumeMover, Consoles, Cloner, Suspender); what a provider lacks is not checked, and the
// suite says so in the test's log.
//
// Boots are dear (about three seconds under emulation), so the subtests of the
// main chain share one instance and run in order, the chain stops at its first
// failure, and the whole suite boots about nine machines. Waiting is done on
// the provider's signals alone, and on the time that a status itself names
// (InstanceStatus.Again): a provider that forgets a signal fails by timeout.
//
// What the suite settles where the method comments leave room:
//   - A reference without ProviderRef is enough: the answer that held it may
//     have been lost.
//   - A volume is taken while its instance is on or pending. Another instance
//     is refused then (KindConflict) and welcome once the first is off: an update
//     keeps the old instance, switched off, until the new one is healthy. A volume
//     that is taken is neither grown nor deleted (KindConflict).
//   - Delete of an unknown instance leaves a tombstone too, so that an older
//     worker's Ensure that arrives late makes nothing.
//   - Observe and List are not fenced.
//   - A clone says so in its status (InstanceStatus.Clone), and never counts as the
//     user of the volume: that may be started on, grown and deleted beside it. An ID is
//     a clone's for ever or never: Ensure of a clone's ID and Clone of an
//     instance's are refused (KindConflict).
//   - A sleeper is off, and says that it sleeps and what is kept of it; one that runs
//     says how it came to run. A sleep that Power to off has ended is none any more.
//
// It imports testing and must be imported by tests only.
package providertest
