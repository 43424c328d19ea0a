package embedded

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// Audit implements [store.Store].
func (s *Store) Audit(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, error) {
	if err := s.queue.Check(ctx); err != nil {
		return nil, err
	}
	var out []store.AuditEntry
	take := func(e store.AuditEntry) (more bool) {
		if e.Time.Before(q.Since) {
			return false
		}
		out = append(out, e)
		return q.Limit == 0 || len(out) < q.Limit
	}
	if s.file != nil {
		return out, s.file.readAudit(q.Below, take)
	}
	for _, e := range slices.Backward(s.state.Load().audit) {
		if q.Below > 0 && e.ID >= q.Below {
			continue
		}
		if !take(e) {
			break
		}
	}
	return out, nil
}

// PruneAudit implements [store.Store].
func (s *Store) PruneAudit(ctx context.Context, before time.Time, keep uint64) error {
	if s.file != nil {
		for more := true; more; {
			if err := s.queue.Check(ctx); err != nil {
				return err
			}
			var err error
			if more, err = s.file.pruneAudit(before, keep); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.queue.Lock(ctx); err != nil {
		return err
	}
	defer s.queue.Unlock()
	st := *s.state.Load()
	for len(st.audit) > 0 && (st.audit[0].Time.Before(before) || keep > 0 && uint64(len(st.audit)) > keep) {
		st.audit = st.audit[1:]
	}
	s.publish(&st)
	return nil
}

// audit writes rows of the audit.
func (w *writer) audit(entries []store.AuditEntry) error {
	if len(entries) == 0 || w.err != nil {
		return w.err
	}
	bucket := w.tx.Bucket(bucketAudit)
	for _, e := range entries {
		id, err := bucket.NextSequence()
		if err != nil {
			return err
		}
		row, err := txn.EncodeAudit(e)
		if err != nil {
			return err
		}
		w.put(bucketAudit, number(id), row)
	}
	return w.err
}

// readAudit calls take with rows below an ID, newest first, until it says that it needs no more.
func (f *file) readAudit(below uint64, take func(store.AuditEntry) bool) error {
	return f.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketAudit).Cursor()
		k, v := c.Last()
		if below > 0 {
			if k, _ = c.Seek(number(below)); k == nil {
				k, v = c.Last()
			} else {
				k, v = c.Prev()
			}
		}
		for ; k != nil; k, v = c.Prev() {
			e, err := f.auditEntry(k, v)
			if err != nil {
				return err
			}
			if !take(e) {
				return nil
			}
		}
		return nil
	})
}

func (f *file) auditEntry(k, v []byte) (store.AuditEntry, error) {
	id := toNumber(k)
	e, err := txn.DecodeAudit(id, bytes.Clone(v))
	if err != nil {
		return e, f.corrupt(fmt.Errorf("audit row %d: %w", id, err))
	}
	return e, nil
}

// maxPruned is how many rows one file transaction drops, so that writers do not wait for long.
const maxPruned = 500

// pruneAudit drops some rows; more says that there are others to drop.
func (f *file) pruneAudit(before time.Time, keep uint64) (more bool, err error) {
	err = f.update(func(tx *bolt.Tx) error {
		w, err := newWriter(tx)
		if err != nil {
			return err
		}
		c := tx.Bucket(bucketAudit).Cursor()
		last, _ := c.Last()
		newest := toNumber(last)
		var drop [][]byte
		k, v := c.First()
		for ; k != nil && len(drop) < maxPruned; k, v = c.Next() {
			// IDs have no holes, since rows go from the oldest on.
			if keep == 0 || newest-toNumber(k) < keep {
				e, err := f.auditEntry(k, v)
				if err != nil {
					return err
				}
				if !e.Time.Before(before) {
					break
				}
			}
			drop = append(drop, bytes.Clone(k))
		}
		more = len(drop) == maxPruned
		for _, k := range drop {
			w.remove(bucketAudit, k)
		}
		return w.end()
	})
	return more, err
}
