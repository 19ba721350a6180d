package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

const packageColumns = `p.id, p.name, p.version, p.digest, p.size_bytes, p.kernel, p.manifest, p.warnings, p.evidence, p.created_at`

type packageRow struct {
	ID        string       `db:"id"`
	Name      string       `db:"name"`
	Version   string       `db:"version"`
	Digest    string       `db:"digest"`
	SizeBytes int64        `db:"size_bytes"`
	Kernel    string       `db:"kernel"`
	Manifest  jsonText     `db:"manifest"`
	Warnings  jsonText     `db:"warnings"`
	Evidence  jsonText     `db:"evidence"`
	CreatedAt sql.NullTime `db:"created_at"`
}

func (r packageRow) pkg() (fleet.Package, error) {
	p := fleet.Package{
		ID: fleet.PackageID(r.ID), Name: r.Name, Version: r.Version, Digest: r.Digest, SizeBytes: r.SizeBytes,
		Kernel: fleet.KernelKind(r.Kernel), CreatedAt: timeOf(r.CreatedAt),
	}
	if err := r.Manifest.into(&p.Manifest); err != nil {
		return p, err
	}
	if err := r.Warnings.into(&p.Warnings); err != nil {
		return p, err
	}
	return p, r.Evidence.into(&p.Evidence)
}

const insertPackageSQL = `INSERT INTO package (id, name, version, digest, size_bytes, kernel, manifest, warnings)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb)
ON CONFLICT (name, version) WHERE deleted_at IS NULL DO NOTHING`

// CreatePackage records a package. One with the same name, version and digest
// is returned as it is; with another digest it is KindConflict.
func (s *Store) CreatePackage(ctx context.Context, p fleet.Package) (fleet.Package, error) {
	manifest, err := encode(p.Manifest)
	if err != nil {
		return p, err
	}
	if p.Warnings == nil {
		p.Warnings = []string{}
	}
	warnings, err := encode(p.Warnings)
	if err != nil {
		return p, err
	}
	if p.ID == "" {
		p.ID = fleet.PackageID(fleet.NewID())
	}
	var have fleet.Package
	err = s.InTx(ctx, func(tx *Tx) (err error) {
		if _, err = tx.exec(ctx, "recording a package", insertPackageSQL, p.ID, p.Name, p.Version, p.Digest, p.SizeBytes, p.Kernel, manifest, warnings); err != nil {
			return err
		}
		have, err = tx.pkg(ctx, p.Name+"@"+p.Version)
		return err
	})
	if err == nil && have.Digest != p.Digest {
		return have, fleet.Errorf(fleet.KindConflict,
			"package %s@%s exists with another content (digest %.12s): give the new one another version", p.Name, p.Version, have.Digest)
	}
	return have, err
}

// maxEvidence is how many lines of evidence a package keeps.
const maxEvidence = 50

// addEvidenceSQL adds the lines that are new, in their order.
const addEvidenceSQL = `UPDATE package p SET evidence = (
	SELECT jsonb_agg(y.line ORDER BY y.n) FROM (
		SELECT line, min(n) AS n FROM jsonb_array_elements_text(p.evidence || $2::jsonb) WITH ORDINALITY AS x (line, n)
		GROUP BY line ORDER BY min(n) LIMIT $3) y)
WHERE p.id = $1 AND p.deleted_at IS NULL AND NOT p.evidence @> $2::jsonb`

// AddEvidence records what a boot has told of a package, each line once and at
// most 50 of them. A package that is gone is no error.
func (s *Store) AddEvidence(ctx context.Context, id fleet.PackageID, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	body, err := encode(lines)
	if err != nil {
		return err
	}
	return s.InTx(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, "recording evidence about a package", addEvidenceSQL, id, body, maxEvidence)
		return err
	})
}

const (
	packageByIDSQL  = `SELECT ` + packageColumns + ` FROM package p WHERE p.id = $1 AND p.deleted_at IS NULL`
	packageByRefSQL = `SELECT ` + packageColumns + ` FROM package p
WHERE p.name = $1 AND ($2 = '' OR p.version = $2) AND p.deleted_at IS NULL ORDER BY p.id DESC LIMIT 1`
)

// Package finds by ID, name@version, or name (the newest).
func (s *Store) Package(ctx context.Context, idOrRef string) (fleet.Package, error) {
	var p fleet.Package
	err := s.read(func(tx *Tx) (err error) {
		p, err = tx.pkg(ctx, idOrRef)
		return err
	})
	return p, err
}

func (t *Tx) pkg(ctx context.Context, idOrRef string) (fleet.Package, error) {
	var r packageRow
	err := error(fleet.Errorf(fleet.KindNotFound, "no such ID"))
	if fleet.ValidID(idOrRef) {
		err = t.get(ctx, "reading a package", &r, packageByIDSQL, idOrRef)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		name, version, _ := strings.Cut(idOrRef, "@")
		err = t.get(ctx, "reading a package", &r, packageByRefSQL, name, version)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Package{}, fleet.Errorf(fleet.KindNotFound, "there is no package %q", idOrRef)
	}
	if err != nil {
		return fleet.Package{}, err
	}
	return r.pkg()
}

const listPackagesSQL = `SELECT ` + packageColumns + ` FROM package p WHERE p.deleted_at IS NULL AND p.id > $1 ORDER BY p.id LIMIT $2`

// ListPackages returns packages in order of ID.
func (s *Store) ListPackages(ctx context.Context, page fleet.Page) ([]fleet.Package, error) {
	out := []fleet.Package{}
	err := s.read(func(tx *Tx) error {
		var rows []packageRow
		if err := tx.list(ctx, "listing packages", &rows, listPackagesSQL, page.After, page.Limit); err != nil {
			return err
		}
		for _, r := range rows {
			p, err := r.pkg()
			if err != nil {
				return err
			}
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

const (
	lockResourceSQL = `SELECT pg_advisory_xact_lock(hashtextextended($1, 0)) IS NULL`
	// Each arm has an index of its own; the latter two hold only the few rows that differ from what is desired.
	packageUsersSQL = `(SELECT 'group ' || g.name AS name FROM installation_group g JOIN group_revision r ON r.group_id = g.id
		WHERE g.deleted_at IS NULL AND r.number IN (g.revision, g.latest) AND r.config ->> 'package_id' = $1 LIMIT 3)
	UNION ALL
	(SELECT name FROM installation WHERE package_id = $1 AND deleted_at IS NULL LIMIT 3)
	UNION ALL
	(SELECT name FROM installation WHERE running_package_id = $1 AND deleted_at IS NULL AND running_package_id NOT IN ('', package_id) LIMIT 3)
	UNION ALL
	(SELECT name FROM installation WHERE verified_package_id = $1 AND deleted_at IS NULL AND verified_package_id NOT IN ('', package_id) LIMIT 3)
LIMIT 3`

	deletePackageSQL = `UPDATE package SET deleted_at = dormouse_now() WHERE id = $1 AND deleted_at IS NULL`
)

// DeletePackage refuses with KindNotAccepted while an installation wants,
// runs, or last ran it.
func (s *Store) DeletePackage(ctx context.Context, idOrRef string) error {
	return s.InTx(ctx, func(tx *Tx) error {
		p, err := tx.pkg(ctx, idOrRef)
		if err != nil {
			return err
		}
		var locked bool
		if err := tx.get(ctx, "locking the package", &locked, lockResourceSQL, p.ID); err != nil {
			return err
		}
		var users []string
		if err := tx.listPlanned(ctx, "looking for users of the package", &users, packageUsersSQL, p.ID); err != nil {
			return err
		}
		if len(users) > 0 {
			return fleet.Errorf(fleet.KindNotAccepted, "package %s@%s is used by %s: update or delete it first", p.Name, p.Version, strings.Join(slices.Compact(users), ", "))
		}
		_, err = tx.exec(ctx, "deleting the package", deletePackageSQL, p.ID)
		return err
	})
}
