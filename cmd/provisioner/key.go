package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"dormouse/internal/fleet"
	"dormouse/internal/sealed"
	"dormouse/internal/store"
)

// keyStore is where it is recorded which key seals a database's secrets.
type keyStore interface {
	SecretKey(ctx context.Context) (fleet.SecretKey, error)
	RecordSecretKey(ctx context.Context, key fleet.SecretKey) (fleet.SecretKey, error)
	ReplaceSecretKey(ctx context.Context, key fleet.SecretKey) (fleet.SecretKey, error)
	SealingKeys(ctx context.Context) ([]string, error)
}

// openKey opens the key for secrets, and makes the first one of a database. The
// first provisioner of a database records which key it has; one that has
// another, or none, is refused at its start: it would fail in the middle of
// whatever needs a secret, and seal what the others can't open. Errors that are
// for whoever configures it are of KindInvalid.
func openKey(ctx context.Context, st keyStore, path string, log logrus.FieldLogger) (*sealed.Box, error) {
	recorded, err := st.SecretKey(ctx)
	unknown := fleet.KindOf(err) == fleet.KindNotFound
	if err != nil && !unknown {
		return nil, err
	}
	var before []string // keys of secrets that are older than the record
	if unknown {
		if before, err = st.SealingKeys(ctx); err != nil {
			return nil, err
		}
	}
	box, err := sealed.Open(path)
	if fleet.KindOf(err) == fleet.KindNotFound {
		needed := before
		if !unknown {
			needed = []string{recorded.ID}
		}
		if len(needed) > 0 {
			return nil, fleet.Errorf(fleet.KindInvalid, "there is no key for secrets at %s, and secrets in this database are sealed with key %s: %s",
				path, strings.Join(needed, ", "), mendKey(path))
		}
		if err := sealed.Create(path); err != nil {
			return nil, err
		}
		log.WithField("path", path).Info("made a key for secrets: keep a copy of it, and give it to every provisioner on this database")
		box, err = sealed.Open(path)
	}
	if err != nil {
		return nil, err
	}
	if unknown {
		if away := missingKeys(box, before); len(away) > 0 {
			if len(away) == len(before) {
				return nil, fleet.Errorf(fleet.KindInvalid, "%s holds key %s, and the secrets in this database are sealed with key %s: %s",
					path, box.KeyID(), strings.Join(away, ", "), mendKey(path))
			}
			log.WithField("keys", away).Warn(missingKeysText(path))
		}
		if recorded, err = st.RecordSecretKey(ctx, box.Key()); err != nil {
			return nil, err
		}
	}
	if !recorded.Same(box.Key()) {
		return nil, fleet.Errorf(fleet.KindInvalid, "%s holds key %s, and all provisioners on this database have key %s: %s",
			path, box.KeyID(), recorded.ID, mendKey(path))
	}
	return box, nil
}

// mendKey says how to come to the right key.
func mendKey(path string) string {
	return fmt.Sprintf("copy the key file of a provisioner that serves this database (%s in its data directory) to %s, or from a backup, or name one with --secret-key-file; "+
		"where that key is lost for ever, `provisioner adopt-key --create --database postgres://… --secret-key-file %s` gives the database another one "+
		"(with --dev, the database's URL is in the file database-url of the data directory)", sealed.FileName, path, path)
}

func missingKeys(box *sealed.Box, ids []string) (away []string) {
	for _, id := range ids {
		if !box.Has(id) {
			away = append(away, id)
		}
	}
	return away
}

func missingKeysText(path string) string {
	return "some secrets are sealed with keys that are not here, and will fail to open: put each key file beside " + path +
		" as secret-KEY.key, or set those secrets again"
}

func adoptKeyCommand() *cobra.Command {
	var c config
	var create bool
	cmd := &cobra.Command{
		Use:   "adopt-key",
		Short: "Have a database's secrets sealed with another key from now on",
		Long: `Have a database's secrets sealed with another key from now on: the one in the key file, which
is made where there is none with --create. It is for when the former key is lost, or is to be replaced. Stop
all provisioners first, and give all of them the new key before they start again.

What was sealed with the former key opens as long as that lies beside the new one, as
secret-KEY.key; else those secrets are to be set again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.database == "" {
				return fleet.Errorf(fleet.KindInvalid, "name a database with --database postgres://…")
			}
			if err := c.checkDataDir(); err != nil {
				return err
			}
			st, err := store.Open(cmd.Context(), store.Options{URL: c.database, MaxConns: leastPool})
			if err != nil {
				return err
			}
			defer st.Close()
			return adoptKey(cmd.Context(), st, c.keyFile(), create, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&c.database, "database", "", "postgres:// URL of the database")
	cmd.Flags().StringVar(&c.dataDir, "data-dir", defaultDataDir(), "directory for everything that is kept on this machine")
	cmd.Flags().BoolVar(&create, "create", false, "make a new key where the file is not there")
	c.bindKey(cmd.Flags())
	return cmd
}

// adoptKey makes the key in a file a database's, and says what can't be opened any more.
func adoptKey(ctx context.Context, st keyStore, path string, create bool, out io.Writer) error {
	before, err := st.SecretKey(ctx)
	if err != nil && fleet.KindOf(err) != fleet.KindNotFound {
		return err
	}
	ids, err := st.SealingKeys(ctx)
	if err != nil {
		return err
	}
	if create {
		if err := sealed.Create(path); err != nil {
			return err
		}
	}
	box, err := sealed.Open(path)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Errorf(fleet.KindInvalid, "there is no key for secrets at %s: name its file with --secret-key-file, or have one made with --create", path)
	}
	if err != nil {
		return err
	}
	if before.Same(box.Key()) {
		fmt.Fprintf(out, "nothing has changed: secrets in this database are sealed with key %s already, from %s\n", box.KeyID(), filepath.Clean(path))
		return nil
	}
	if _, err := st.ReplaceSecretKey(ctx, box.Key()); err != nil {
		return err
	}
	was := before.ID
	if was == "" {
		was = "none"
	}
	fmt.Fprintf(out, "secrets in this database are sealed with key %s from now on (before: %s), from %s\n", box.KeyID(), was, filepath.Clean(path))
	if away := missingKeys(box, ids); len(away) > 0 {
		fmt.Fprintf(out, "%s: %s\n", missingKeysText(path), strings.Join(away, ", "))
	}
	return nil
}
