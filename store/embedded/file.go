package embedded

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// formatVersion of the file; a newer one is refused.
const formatVersion = 2

// formatAudit is the first format with the bucket of the audit.
const formatAudit = 2

// Buckets.
var (
	bucketResources = []byte("resources") // key text → row
	bucketLog       = []byte("log")       // revision → row of the commit
	bucketHistory   = []byte("history")   // key text, zero byte, revision → nothing
	bucketKinds     = []byte("kinds")     // kind/mesh → revision of the last change
	bucketMeta      = []byte("meta")      // name → value
	bucketAudit     = []byte("audit")     // ID → row of the audit
	bucketStore     = []byte("store")     // what follows

	fieldFormat      = []byte("format")
	fieldID          = []byte("id")
	fieldFingerprint = []byte("fingerprint")
	fieldRevision    = []byte("revision")
	fieldCompacted   = []byte("compacted")
	fieldRole        = []byte("role")  // of the owner
	fieldZone        = []byte("zone")  // of the owner
	fieldEpoch       = []byte("epoch") // suffix of the epoch; none until a restore
	// fieldDigest is the XOR of the hashes of all other rows of all buckets: a row that is lost
	// without a trace shows.
	fieldDigest = []byte("digest")

	buckets = [][]byte{bucketResources, bucketLog, bucketHistory, bucketKinds, bucketMeta, bucketAudit,
		bucketStore}
)

// file is the durable half of a Store.
type file struct {
	path  string
	id    string
	epoch string
	db    *bolt.DB
	lock  *os.File
	codec txn.Codec
}

// commitRows is a commit as rows.
type commitRows struct {
	log       []byte
	resources [][2][]byte // name, row; row nil for a deletion
}

// openFile opens or creates the file of dir and loads its current state into st.
func openFile(dir string, sealer store.Sealer, owner store.Owner, st *state) (f *file, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	f = &file{path: filepath.Join(dir, "store.db"), lock: lock, codec: txn.Codec{Sealer: sealer}}
	defer func() {
		if p := recover(); p != nil {
			err = f.corrupt(fmt.Errorf("%v", p))
		}
		if err != nil {
			_ = f.close()
			f = nil
		}
	}()
	if _, err := os.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
		if err := f.create(dir, sealer.Fingerprint()); err != nil {
			return f, fmt.Errorf("create %s: %w", f.path, err)
		}
	} else if err != nil {
		return f, err
	}
	if err := verifyPages(f.path); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return f, err
		}
		return f, f.corrupt(err)
	}
	if f.db, err = bolt.Open(f.path, 0o600, options()); err != nil {
		return f, f.corrupt(err)
	}
	return f, f.load(sealer, owner, st)
}

func options() *bolt.Options {
	// The free pages are found by walking the file at open: a list of them on disk could be
	// damaged, and then a page in use would be overwritten.
	return &bolt.Options{
		Timeout:         time.Second,
		NoFreelistSync:  true,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: 64 << 20,
	}
}

func lockDir(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the data directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("the data directory %s is in use by another control plane; stop that one, or "+
			"give this one a data directory of its own (%w)", dir, err)
	}
	return lock, nil
}

// create makes a complete file under another name and then renames it.
func (f *file) create(dir, fingerprint string) error {
	temporary := f.path + ".new"
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	db, err := bolt.Open(temporary, 0o600, options())
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		w, err := newWriter(tx)
		if err != nil {
			return err
		}
		w.put(bucketStore, fieldFormat, formatRow(formatVersion))
		w.put(bucketStore, fieldID, []byte(hex.EncodeToString(id)))
		w.put(bucketStore, fieldFingerprint, []byte(fingerprint))
		w.put(bucketStore, fieldRevision, number(0))
		w.put(bucketStore, fieldCompacted, number(0))
		return w.end()
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, f.path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load checks every row, fills st and claims a file without an owner.
func (f *file) load(sealer store.Sealer, owner store.Owner, st *state) error {
	var todo upgrade
	if err := f.loadRows(sealer, owner, st, &todo); err != nil || todo == (upgrade{}) {
		return err
	}
	return f.update(func(tx *bolt.Tx) error {
		w, err := newWriter(tx)
		if err != nil {
			return err
		}
		if todo.claim {
			w.put(bucketStore, fieldRole, []byte(owner.Role))
			w.put(bucketStore, fieldZone, []byte(owner.Zone))
		}
		if todo.audit {
			if _, err := tx.CreateBucket(bucketAudit); err != nil {
				return err
			}
			w.put(bucketStore, fieldFormat, formatRow(formatVersion))
		}
		return w.end()
	})
}

// upgrade is what a file lacks: an owner, the audit.
type upgrade struct{ claim, audit bool }

// loadRows is load without the upgrade.
func (f *file) loadRows(sealer store.Sealer, owner store.Owner, st *state, todo *upgrade) error {
	return f.view(func(tx *bolt.Tx) error {
		var digest uint64
		for _, name := range buckets {
			b := tx.Bucket(name)
			if b == nil && bytes.Equal(name, bucketAudit) {
				todo.audit = true
				continue
			}
			if b == nil {
				return f.corrupt(fmt.Errorf("bucket %s is missing", name))
			}
			if err := b.ForEach(func(k, v []byte) error {
				if v == nil {
					return f.corrupt(fmt.Errorf("bucket %s has an unknown bucket", name))
				}
				if !bytes.Equal(k, fieldDigest) || !bytes.Equal(name, bucketStore) {
					digest ^= hash(name, k, v)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		b := tx.Bucket(bucketStore)
		format, err := txn.OpenBytes(string(fieldFormat), b.Get(fieldFormat))
		if err != nil {
			return f.corrupt(fmt.Errorf("the format: %w", err))
		}
		if format := toNumber(format); format > formatVersion {
			return fmt.Errorf("%s was written by a newer program (format %d, this one knows %d): start that "+
				"version or a later one", f.path, format, formatVersion)
		}
		if todo.audit && toNumber(format) >= formatAudit {
			return f.corrupt(fmt.Errorf("bucket %s is missing", bucketAudit))
		}
		if toNumber(b.Get(fieldDigest)) != digest {
			return f.corrupt(errors.New("the rows are not those that were last written (digest " +
				"does not match)"))
		}
		f.id, f.epoch = string(b.Get(fieldID)), string(b.Get(fieldEpoch))
		of := store.Owner{Role: string(b.Get(fieldRole)), Zone: string(b.Get(fieldZone))}
		// Before the key: the key of another control plane does not open its store.
		if todo.claim, err = owner.Check(of); err != nil {
			return err
		}
		if want := string(b.Get(fieldFingerprint)); want != sealer.Fingerprint() {
			return &store.WrongKeyError{Want: want, Got: sealer.Fingerprint()}
		}
		st.revision, st.compacted = toNumber(b.Get(fieldRevision)), toNumber(b.Get(fieldCompacted))
		if err := tx.Bucket(bucketResources).ForEach(func(k, v []byte) error {
			r, err := f.codec.DecodeResource(string(k), bytes.Clone(v))
			if err != nil {
				return f.corrupt(fmt.Errorf("row %s: %w", k, err))
			}
			if r.Key.String() != string(k) {
				return f.corrupt(fmt.Errorf("row %s holds %s", k, r.Key))
			}
			st.resources.Set(r)
			return nil
		}); err != nil {
			return err
		}
		if err := tx.Bucket(bucketKinds).ForEach(func(k, v []byte) error {
			st.kinds.Set(string(k), toNumber(v))
			return nil
		}); err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).ForEach(func(k, v []byte) error {
			st.meta[string(k)] = bytes.Clone(v)
			return nil
		})
	})
}

func (f *file) corrupt(err error) error {
	var already *store.CorruptError
	if errors.As(err, &already) {
		return err
	}
	return &store.CorruptError{Where: f.path, Err: err}
}

// view and update turn bbolt's errors and panics into the contract's.
func (f *file) view(do func(*bolt.Tx) error) (err error) {
	defer f.guard(&err)
	return f.db.View(do)
}

func (f *file) update(do func(*bolt.Tx) error) (err error) {
	defer f.guard(&err)
	return f.db.Update(do)
}

func (f *file) guard(err *error) {
	if p := recover(); p != nil {
		*err = f.corrupt(fmt.Errorf("%v", p))
		return
	}
	if errors.Is(*err, bolterrors.ErrDatabaseNotOpen) {
		*err = store.ErrClosed
	}
}

func (f *file) encode(c store.Commit) (commitRows, error) {
	var rows commitRows
	var err error
	if rows.log, err = f.codec.EncodeCommit(logName(c.Revision), c); err != nil {
		return rows, err
	}
	for _, ch := range c.Changes {
		name := ch.Key.String()
		var row []byte
		if ch.Resource != nil {
			if row, err = f.codec.EncodeResource(name, ch.Resource); err != nil {
				return rows, err
			}
		}
		rows.resources = append(rows.resources, [2][]byte{[]byte(name), row})
	}
	return rows, nil
}

// write makes a group durable.
func (f *file) write(g *group) error {
	err := f.update(func(tx *bolt.Tx) error {
		w, err := newWriter(tx)
		if err != nil {
			return err
		}
		latest := map[string][]byte{}
		for i, rows := range g.rows {
			revision := number(g.commits[i].Revision)
			w.put(bucketLog, revision, rows.log)
			for _, row := range rows.resources {
				latest[string(row[0])] = row[1]
				w.put(bucketHistory, historyName(string(row[0]), g.commits[i].Revision), []byte{})
			}
		}
		for name, row := range latest {
			if row == nil {
				w.remove(bucketResources, []byte(name))
			} else {
				w.put(bucketResources, []byte(name), row)
			}
		}
		for ref, revision := range g.overlay.WrittenKinds() {
			w.put(bucketKinds, []byte(kindName(ref)), number(revision))
		}
		for name, value := range g.meta {
			w.put(bucketMeta, []byte(name), value)
		}
		if err := w.audit(g.audit); err != nil {
			return err
		}
		w.put(bucketStore, fieldRevision, number(g.revision))
		return w.end()
	})
	var corrupt *store.CorruptError
	if err == nil || errors.As(err, &corrupt) || errors.Is(err, store.ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: write %s: %w", store.ErrUnavailable, f.path, err)
}

// head is the revision the file is at.
func (f *file) head() (revision uint64, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		revision = toNumber(tx.Bucket(bucketStore).Get(fieldRevision))
		return nil
	})
	return revision, err
}

// read returns at most limit commits after a revision, and none if they were compacted.
func (f *file) read(after uint64, limit int) (commits []store.Commit, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		if after < toNumber(tx.Bucket(bucketStore).Get(fieldCompacted)) {
			return nil
		}
		c := tx.Bucket(bucketLog).Cursor()
		size := 0
		for k, v := c.Seek(number(after + 1)); k != nil && len(commits) < limit &&
			size < 4<<20; k, v = c.Next() {
			revision := toNumber(k)
			if revision != after+1 {
				return f.corrupt(fmt.Errorf("the log has no revision %d", after+1))
			}
			commit, err := f.codec.DecodeCommit(logName(revision), bytes.Clone(v))
			if err != nil {
				return f.corrupt(fmt.Errorf("%s: %w", logName(revision), err))
			}
			commits = append(commits, commit)
			after, size = revision, size+len(v)
		}
		return nil
	})
	return commits, err
}

func (f *file) history(key mesh.Key, limit int) (commits []store.Commit, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		compacted := toNumber(tx.Bucket(bucketStore).Get(fieldCompacted))
		log := tx.Bucket(bucketLog)
		prefix := []byte(key.String() + "\x00")
		c := tx.Bucket(bucketHistory).Cursor()
		k, _ := c.Seek([]byte(key.String() + "\x01"))
		if k == nil {
			k, _ = c.Last()
		} else {
			k, _ = c.Prev()
		}
		for ; bytes.HasPrefix(k, prefix) && (limit <= 0 || len(commits) < limit); k, _ = c.Prev() {
			revision := toNumber(k[len(prefix):])
			if revision <= compacted {
				break
			}
			commit, err := f.codec.DecodeCommit(logName(revision), bytes.Clone(log.Get(number(revision))))
			if err != nil {
				return f.corrupt(fmt.Errorf("%s: %w", logName(revision), err))
			}
			if commit, ok := only(commit, key); ok {
				commits = append(commits, commit)
			}
		}
		return nil
	})
	return commits, err
}

// compacted notes how far the log no longer reaches back.
func (f *file) compacted(through uint64) error {
	return f.update(func(tx *bolt.Tx) error {
		w, err := newWriter(tx)
		if err != nil {
			return err
		}
		w.put(bucketStore, fieldCompacted, number(through))
		return w.end()
	})
}

// drop removes log entries, some hundred to a file transaction.
func (f *file) drop(ctx context.Context, through uint64) error {
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := f.update(func(tx *bolt.Tx) error {
			w, err := newWriter(tx)
			if err != nil {
				return err
			}
			var commits []store.Commit
			c := tx.Bucket(bucketLog).Cursor()
			k, v := c.First()
			for ; k != nil && toNumber(k) <= through && len(commits) < 500; k, v = c.Next() {
				commit, err := f.codec.DecodeCommit(logName(toNumber(k)), bytes.Clone(v))
				if err != nil {
					return f.corrupt(err)
				}
				commits = append(commits, commit)
			}
			more = k != nil && toNumber(k) <= through
			for _, commit := range commits {
				w.remove(bucketLog, number(commit.Revision))
				for _, ch := range commit.Changes {
					w.remove(bucketHistory, historyName(ch.Key.String(), commit.Revision))
				}
			}
			return w.end()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *file) close() error {
	var err error
	if f.db != nil {
		err = f.db.Close()
	}
	return errors.Join(err, f.lock.Close())
}

// writer writes rows and keeps the digest. The first error stays and end returns it.
type writer struct {
	tx     *bolt.Tx
	digest uint64
	err    error
}

func newWriter(tx *bolt.Tx) (*writer, error) {
	b := tx.Bucket(bucketStore)
	if b == nil {
		return nil, errors.New("the store bucket is missing")
	}
	return &writer{tx: tx, digest: toNumber(b.Get(fieldDigest))}, nil
}

func (w *writer) put(bucket, key, value []byte) {
	if w.err != nil {
		return
	}
	b := w.tx.Bucket(bucket)
	if old := b.Get(key); old != nil {
		w.digest ^= hash(bucket, key, old)
	}
	w.digest ^= hash(bucket, key, value)
	w.err = b.Put(key, value)
}

func (w *writer) remove(bucket, key []byte) {
	if w.err != nil {
		return
	}
	b := w.tx.Bucket(bucket)
	if old := b.Get(key); old != nil {
		w.digest ^= hash(bucket, key, old)
		w.err = b.Delete(key)
	}
}

func (w *writer) end() error {
	if w.err != nil {
		return w.err
	}
	return w.tx.Bucket(bucketStore).Put(fieldDigest, number(w.digest))
}

// hash of a row for the digest.
func hash(bucket, key, value []byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	for _, part := range [][]byte{bucket, key, value} {
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(part)))
		_, _ = h.Write(length[:])
		_, _ = h.Write(part)
	}
	return h.Sum64()
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// formatRow has a checksum of its own: a newer format may keep its digest in another way.
func formatRow(version uint64) []byte { return txn.SealBytes(string(fieldFormat), number(version)) }

// toNumber reads what number wrote; anything else is 0.
func toNumber(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func logName(revision uint64) string { return fmt.Sprintf("log/%d", revision) }

func historyName(key string, revision uint64) []byte {
	var b strings.Builder
	b.WriteString(key)
	b.WriteByte(0)
	return binary.BigEndian.AppendUint64([]byte(b.String()), revision)
}
