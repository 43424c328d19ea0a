package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// Audit implements [store.Store].
func (s *Store) Audit(ctx context.Context, q store.AuditQuery) (out []store.AuditEntry, err error) {
	limit := (*int64)(nil) // no limit
	if q.Limit > 0 {
		n := int64(q.Limit)
		limit = &n
	}
	err = s.read(ctx, "read the audit", longTimeout, func(ctx context.Context) error {
		out = nil
		rows, err := s.pool.Query(ctx, `SELECT id, body FROM meridian.audit
			WHERE ($1::bigint = 0 OR id < $1) AND time >= $2 ORDER BY id DESC LIMIT $3`,
			int64(min(q.Below, 1<<62)), q.Since, limit)
		if err != nil {
			return err
		}
		var id uint64
		var body []byte
		_, err = pgx.ForEachRow(rows, []any{&id, &body}, func() error {
			e, err := txn.DecodeAudit(id, body)
			if err != nil {
				return &store.CorruptError{Where: "meridian.audit", Err: err}
			}
			out = append(out, e)
			return nil
		})
		return err
	})
	return out, err
}

// PruneAudit implements [store.Store].
func (s *Store) PruneAudit(ctx context.Context, before time.Time, keep uint64) error {
	return s.read(ctx, "prune the audit", longTimeout, func(ctx context.Context) error {
		return s.long(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "DELETE FROM meridian.audit WHERE time < $1", before); err != nil {
				return err
			}
			if keep == 0 {
				return nil
			}
			_, err := tx.Exec(ctx, `DELETE FROM meridian.audit WHERE id <=
				(SELECT id FROM meridian.audit ORDER BY id DESC OFFSET $1 LIMIT 1)`,
				int64(min(keep, 1<<62)))
			return err
		})
	})
}
