// Package idle puts installations to sleep, and wakes them, when their idle policy
// says so: once a minute it asks the store, in one query for the whole fleet, who
// has not been visited for long enough and whose schedules are due, and requests
// hibernations and wakes as the API would. What becomes of them is the workflows'
// and the host's matter: a hibernation that nobody has asked for gives way to
// whoever comes.
//
// One process does it at a time; the caller sees to that. Two at once, or one that
// dies in the middle, do no harm: a request has a key made of its installation and
// of what it was decided on, so that it is made once.
//
// # Schedules
//
// A schedule is a line of crontab(5), its five time fields, in a zone of the IANA
// database. Its times are those of a clock on the wall there:
//
//   - a time that does not exist on a day, because the clock is put forward over it,
//     comes at the first moment after the gap;
//   - a time that exists twice, because the clock is put back, comes once, the first
//     time;
//   - what was missed, because nobody looked at the time, is caught up once: of all
//     times that were missed, those of several schedules included, the last one
//     counts, and a wake where two come at the same moment.
//
// A schedule counts from when it is set. Never in a policy holds against schedules
// that hibernate, too.
package idle
