package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

const (
	secretKeySQL = `SELECT id, check_value, recorded_at FROM secret_key`

	recordSecretKeySQL = `INSERT INTO secret_key (id, check_value) VALUES ($1, $2) ON CONFLICT (only_one) DO NOTHING`

	replaceSecretKeySQL = `INSERT INTO secret_key (id, check_value) VALUES ($1, $2)
	ON CONFLICT (only_one) DO UPDATE SET id = excluded.id, check_value = excluded.check_value, recorded_at = dormouse_now()`
)

type secretKeyRow struct {
	ID         string       `db:"id"`
	CheckValue string       `db:"check_value"`
	RecordedAt sql.NullTime `db:"recorded_at"`
}

// SecretKey returns which key seals the secrets in this database. KindNotFound
// where none is recorded yet, KindInvalid where the schema is too old to say.
func (s *Store) SecretKey(ctx context.Context) (fleet.SecretKey, error) {
	var key fleet.SecretKey
	err := s.read(func(tx *Tx) (err error) {
		key, err = tx.secretKey(ctx)
		return err
	})
	return key, err
}

func (t *Tx) secretKey(ctx context.Context) (fleet.SecretKey, error) {
	var r secretKeyRow
	err := t.get(ctx, "reading which key seals the secrets", &r, secretKeySQL)
	var pe *pq.Error
	if errors.As(err, &pe) && pe.Code == "42P01" {
		return fleet.SecretKey{}, fleet.Errorf(fleet.KindInvalid,
			"the database's schema is older than this program: bring it up to date with `provisioner migrate --database …`: %w", err)
	}
	return fleet.SecretKey{ID: r.ID, CheckValue: r.CheckValue, RecordedAt: timeOf(r.RecordedAt)}, err
}

// RecordSecretKey records which key seals the secrets unless that is recorded
// already, and returns what is recorded then: of several that do so at once, all
// get the same.
func (s *Store) RecordSecretKey(ctx context.Context, key fleet.SecretKey) (fleet.SecretKey, error) {
	return s.writeSecretKey(ctx, recordSecretKeySQL, key)
}

// ReplaceSecretKey records that another key seals the secrets from now on.
func (s *Store) ReplaceSecretKey(ctx context.Context, key fleet.SecretKey) (fleet.SecretKey, error) {
	return s.writeSecretKey(ctx, replaceSecretKeySQL, key)
}

func (s *Store) writeSecretKey(ctx context.Context, query string, key fleet.SecretKey) (recorded fleet.SecretKey, err error) {
	err = s.InTx(ctx, func(tx *Tx) (err error) {
		if _, err = tx.exec(ctx, "recording which key seals the secrets", query, key.ID, key.CheckValue); err != nil {
			return err
		}
		recorded, err = tx.secretKey(ctx)
		return err
	})
	return recorded, err
}

// sealingKeysSQL reads every installation once: it is for when nothing is
// recorded yet, and for when somebody looks into a key that was lost.
const sealingKeysSQL = `SELECT DISTINCT split_part(s.value, '.', 2) AS id
FROM installation i, jsonb_each_text(CASE WHEN jsonb_typeof(i.secrets) = 'object' THEN i.secrets ELSE '{}' END) s
WHERE i.deleted_at IS NULL AND i.secrets <> '{}' AND s.value ~ '^v1\.[0-9a-f]{16}\.' ORDER BY id`

// SealingKeys returns the IDs of the keys with which the secrets in this
// database are sealed, as the sealed values name them (package sealed). A value
// that is damaged is passed over.
func (s *Store) SealingKeys(ctx context.Context) ([]string, error) {
	ids := []string{}
	err := s.read(func(tx *Tx) error {
		return tx.listPlanned(ctx, "looking for the keys of the secrets", &ids, sealingKeysSQL)
	})
	return ids, err
}
