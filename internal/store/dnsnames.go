package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// constraintDNSName breaks where another installation has the name.
const constraintDNSName = "installation_dns_name_pkey"

const takenSQL = `SELECT name FROM installation_dns_name WHERE name = ANY ($1) AND installation_id <> $2 ORDER BY name LIMIT 1`

// nameTaken says which of the names another installation has.
func (s *Store) nameTaken(ctx context.Context, id fleet.InstallationID, names []string) error {
	var name string
	err := s.read(func(tx *Tx) error {
		return tx.get(ctx, "looking for who has a DNS name", &name, takenSQL, pq.Array(names), id)
	})
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Errorf(fleet.KindConflict, "one of the DNS names was another installation's a moment ago: try again")
	}
	if err != nil {
		return err
	}
	conflict := fleet.Errorf(fleet.KindConflict, "the DNS name %q is another installation's: take it away there first, or choose another", name)
	conflict.Field = "dns_names"
	return conflict
}

// sortedNames are a request's names as they are stored: never null.
func sortedNames(list []string) []string {
	out := slices.Sorted(slices.Values(list))
	return append([]string{}, out...)
}

// namesOf are stored names as they are shown: nil where there are none.
func namesOf(list pq.StringArray) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

// encodeEach returns each value as JSON.
func encodeEach(values ...any) ([]string, error) {
	out := make([]string, len(values))
	for i, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encoding a JSON column: %w", err)
		}
		out[i] = string(b)
	}
	return out, nil
}
