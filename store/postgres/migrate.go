package postgres

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/meridian-mesh/meridian/store"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Keys of advisory locks, chosen at random once.
const (
	migrationLock  = 0x6d65726964000001
	compactionLock = 0x6d65726964000002
)

type migration struct {
	version int
	sql     string
}

// migrations are the files in order; their numbers are 1, 2, 3.
func migrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s should have the number %d", name, i+1)
		}
		sql, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version, string(sql)})
	}
	return all, nil
}

// migrate brings the schema up to date, claims a store without an owner, and returns the store's id.
func migrate(ctx context.Context, conn *pgx.Conn, all []migration, fingerprint string,
	owner store.Owner) (id string, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Only migrations may take longer than the timeouts of ordinary statements.
		if _, err := tx.Exec(ctx,
			"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'; SET LOCAL "+
				"idle_in_transaction_session_timeout = '60s'"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx,
			"SELECT to_regclass('meridian.migrations') IS NOT NULL").Scan(&exists); err != nil {
			return err
		}
		if !exists {
			if _, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS meridian;
				CREATE TABLE meridian.migrations (
					version int PRIMARY KEY,
					applied timestamptz NOT NULL DEFAULT now()
				)`); err != nil {
				return err
			}
		}
		var at int
		if err := tx.QueryRow(ctx,
			"SELECT coalesce(max(version), 0) FROM meridian.migrations").Scan(&at); err != nil {
			return err
		}
		if at > len(all) {
			return &NewerError{Database: at, Program: len(all)}
		}
		for _, m := range all[at:] {
			if _, err := tx.Exec(ctx, m.sql); err != nil {
				return fmt.Errorf("migration %d: %w", m.version, err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO meridian.migrations (version) VALUES ($1)",
				m.version); err != nil {
				return err
			}
		}
		random := make([]byte, 16)
		if _, err := rand.Read(random); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx,
			"INSERT INTO meridian.store (id, fingerprint) VALUES ($1, $2) ON CONFLICT DO NOTHING",
			hex.EncodeToString(random), fingerprint); err != nil {
			return err
		}
		var want string
		var of store.Owner
		if err := tx.QueryRow(ctx, "SELECT id, fingerprint, role, zone FROM meridian.store").Scan(&id,
			&want, &of.Role, &of.Zone); err != nil {
			return err
		}
		// Before the key: the key of another control plane does not open its store.
		claim, err := owner.Check(of)
		if err != nil {
			return err
		}
		if want != fingerprint {
			return &store.WrongKeyError{Want: want, Got: fingerprint}
		}
		if claim {
			_, err = tx.Exec(ctx, "UPDATE meridian.store SET role = $1, zone = $2", owner.Role, owner.Zone)
		}
		return err
	})
	return id, err
}

// NewerError says that a newer program has migrated the database.
type NewerError struct{ Database, Program int }

func (e *NewerError) Error() string {
	return fmt.Sprintf("the database has schema version %d, but this program knows only %d: start "+
		"the version "+
		"that migrated it, or a later one; "+
		"there is no way back but a backup", e.Database, e.Program)
}

var errNoURL = errors.New("the Postgres store needs a URL")
