package embedded

import (
	"errors"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/storetest"
)

// TestFormatWithoutAudit: a store of the format before the audit is opened and gets one, and is of the
// new format then, which an older program refuses by its number.
func TestFormatWithoutAudit(t *testing.T) {
	dir, want := filled(t, 3)
	db, err := bolt.Open(filepath.Join(dir, "store.db"), 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(bucketAudit); err != nil { // it is empty, so the digest is the same
			return err
		}
		w, err := newWriter(tx)
		if err != nil {
			return err
		}
		w.put(bucketStore, fieldFormat, formatRow(formatAudit-1))
		return w.end()
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := Open(Config{Dir: dir, Sealer: storetest.PlainSealer{}})
		if err != nil {
			t.Fatal(err)
		}
		if at, err := s.Revision(t.Context()); err != nil || at != want.Revision {
			t.Errorf("revision %d, want %d: %v", at, want.Revision, err)
		}
		_, err = s.Commit(t.Context(), store.Txn{Ops: []store.Op{
			store.Audit{Entry: store.AuditEntry{Who: "alice", Action: "read"}}}})
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Config{Dir: dir, Sealer: storetest.PlainSealer{}})
	if rows, err := s.Audit(t.Context(), store.AuditQuery{}); err != nil || len(rows) != 2 {
		t.Errorf("rows %+v, %v", rows, err)
	}
}

// TestLostAuditIsDamage: the bucket of the audit cannot vanish from a store that had one.
func TestLostAuditIsDamage(t *testing.T) {
	dir, _ := filled(t, 3)
	db, err := bolt.Open(filepath.Join(dir, "store.db"), 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketAudit) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	var damaged *store.CorruptError
	if _, err := Open(Config{Dir: dir, Sealer: storetest.PlainSealer{}}); !errors.As(err, &damaged) {
		t.Errorf("Open = %v", err)
	}
}
