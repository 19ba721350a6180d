// Package invariants says what must hold in the database once nothing is at
// work any more, whatever broke before. The simulation and the chaos runs ask it.
//
// It knows tables and no server: whoever asks gives it the way to ask. An
// invariant that does not hold is a Violation; an error means that the question
// was not answered.
package invariants
