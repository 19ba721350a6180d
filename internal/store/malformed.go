package store

import (
	"errors"

	"dormouse/internal/fleet"
)

// errMalformed says that a row holds what this store has not written: a hand was
// at it, or another version.
var errMalformed = errors.New("decoding a stored JSON column")

// shown lets a row be shown of which a part can't be read, so that it does not
// hide the others of its list: what can be read is there, and words, which may
// hold something already, say what can't. What decides is read strictly.
func shown(words *string, err error) error {
	if !errors.Is(err, errMalformed) {
		return err
	}
	said := fleet.Unreadable + ": " + err.Error()
	if *words != "" {
		said = *words + "; " + said
	}
	*words = said
	return nil
}

// part is one JSON column and where it goes.
type part struct {
	from jsonText
	into any
}

// parts decodes columns, and goes on after one that can't be read.
func parts(all ...part) error {
	var malformed error
	for _, p := range all {
		malformed = errors.Join(malformed, p.from.into(p.into))
	}
	return malformed
}

// ownIsSound tells of an installation i whether what it sets itself can be made
// use of in a statement. Where it can't, the statement would fail, and with it
// whatever else it does for others.
const ownIsSound = `(jsonb_typeof(i.own) = 'object' AND coalesce(i.own ->> 'memory_mib', '0') ~ '^[0-9]{1,9}$'
	AND coalesce(i.own ->> 'vcpus', '0') ~ '^[0-9]{1,9}$' AND coalesce(jsonb_typeof(i.own -> 'env'), 'object') = 'object'
	AND coalesce(jsonb_typeof(i.own -> 'idle'), 'object') = 'object' AND coalesce(jsonb_typeof(i.own -> 'wake'), 'object') = 'object')`

// malformedSQL says the same in words, ” where all is well.
const malformedSQL = `CASE WHEN ` + ownIsSound + ` THEN '' ELSE 'what the installation sets itself can''t be read' END`

// unreadableMember is a member of a rollout of which nothing can be made: it has
// failed, and is not to be tried again by itself.
func unreadableMember(m *fleet.RolloutMember, why string) {
	m.State, m.Reason, m.Detail = fleet.MemberFailed, fleet.ReasonPanic, why
}
