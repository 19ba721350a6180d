package invariants

import (
	"errors"
	"fmt"
)

// Ask returns the first column of a query, as text.
type Ask func(query string, args ...any) ([]string, error)

// Texts reads the first column of rows (sql.Rows), and closes them.
func Texts(rows interface {
	Next() bool
	Scan(...any) error
	Err() error
	Close() error
}) (out []string, err error) {
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, rows.Err()
}

// Violation is an invariant that does not hold.
type Violation struct{ Invariant, Detail string }

// Open finds what is still at work.
const Open = `SELECT resource_name || ' ' || kind || ' ' || state || ' at ' || step || concat_ws(': ', '', nullif(wait_reason, ''), nullif(wait_detail, ''), nullif(error, '')) FROM operation
WHERE state IN ('active', 'queued') ORDER BY id`

// Unapplied finds what is stable on an older configuration than the desired one,
// because the update to that failed or was cancelled, and said so: asked for
// again, it must come.
const Unapplied = `SELECT i.id FROM installation i JOIN instance x ON x.installation_id = i.id AND x.serving AND x.deleted_at IS NULL
WHERE i.state = 'stable' AND (coalesce(x.spec -> 'env', '{}') <> i.env OR (x.spec ->> 'memory_mib')::int <> i.memory_mib OR x.spec ->> 'package_id' <> i.package_id)
	AND EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.kind = 'update' AND o.state IN ('failed', 'cancelled')
		AND o.generation > (x.spec ->> 'generation')::bigint) ORDER BY i.id`

// Restless finds installations that a retry may bring further.
const Restless = `SELECT id FROM installation WHERE state LIKE '%-failed' OR state IN ('exited', 'crash-looping') ORDER BY id`

// AtRest returns what does not hold. Nothing may be at work meanwhile.
func AtRest(ask Ask) ([]Violation, error) {
	found, err := events(ask)
	errs := []error{err}
	for _, r := range rows {
		bad, err := ask(r.query)
		errs = append(errs, err)
		if len(bad) > 0 {
			found = append(found, Violation{r.invariant, fmt.Sprintf("%s: %d times: %v", r.what, len(bad), bad[:min(5, len(bad))])})
		}
	}
	return found, errors.Join(errs...)
}
