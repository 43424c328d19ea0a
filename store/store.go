package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
)

// Store is the contract; see the package comment. All methods are safe for concurrent use. Each
// returns ctx's error when ctx ends first, and [ErrClosed] after Close.
type Store interface {
	// ID is the store's identity, 16 random bytes as hex, made when the store is created.
	ID() string

	// Epoch names the history that revisions count in: revisions of two epochs do not compare. It is
	// the ID, and from the first time on that the store was restored or found to have gone back, the
	// ID with a random suffix.
	Epoch() string

	// Commit applies txn. Errors: [*ConflictError] (a check failed), [*InvalidError] (the txn makes
	// no sense: unknown kind, empty name, two ops on a key other than one Put and one PutStatus),
	// [ErrUnavailable], [ErrReset].
	Commit(ctx context.Context, txn Txn) (Result, error)

	// Get reads one resource at the latest revision; [ErrNotFound] if there is none.
	Get(ctx context.Context, key mesh.Key) (*mesh.Resource, error)

	// Meta reads a named value written by [SetMeta]; nil if there is none.
	Meta(ctx context.Context, name string) ([]byte, error)

	// Revision is that of the latest commit; 0 in an empty store.
	Revision(ctx context.Context) (uint64, error)

	// Snapshot reads everything at one revision, in the order of keys.
	Snapshot(ctx context.Context) (Snapshot, error)

	// Watch follows commits after revision after. It fails with [ErrCompacted] if the log does not
	// reach back that far, and with [*InvalidError] if after is beyond the latest revision (the
	// cursor is of another store). The watch ends with [ErrReset] when the epoch changes.
	Watch(ctx context.Context, after uint64) (Watch, error)

	// History reads the log of one key, newest first, at most limit commits (0: all that are left);
	// each commit's Changes holds only those of the key.
	History(ctx context.Context, key mesh.Key, limit int) ([]Commit, error)

	// Compact drops log entries of revisions up to and including through. Current state is never touched.
	Compact(ctx context.Context, through uint64) error

	// Audit reads rows of the audit, newest first.
	Audit(ctx context.Context, q AuditQuery) ([]AuditEntry, error)

	// PruneAudit drops rows that are older than before, and the oldest beyond the newest keep; the zero
	// Time and 0 bound nothing.
	PruneAudit(ctx context.Context, before time.Time, keep uint64) error

	// Close ends the store; it is idempotent. Watches end with ErrClosed.
	Close() error
}

// Watch delivers commits. One goroutine uses it.
type Watch interface {
	// Next blocks until the next commit is there. Errors: [ErrCompacted], [ErrReset], [ErrUnavailable]
	// (try Next again; nothing is lost), [ErrClosed], ctx's.
	Next(ctx context.Context) (Commit, error)
	// Close releases the watch; it is idempotent.
	Close()
}

// Snapshot is everything at one revision.
type Snapshot struct {
	// Epoch that Revision counts in; see [Store.Epoch].
	Epoch     string
	Revision  uint64
	Resources []*mesh.Resource
}

// Txn is a transaction as a value.
type Txn struct {
	// Author says who writes, for the history: "user:alice", "zone:us-east", "system:aggregate".
	Author string
	// Epoch of what the transaction was made from; if it is not empty and no longer the store's, Commit
	// fails with [ErrReset].
	Epoch  string
	Checks []Check
	Ops    []Op
}

// Result of a Commit.
type Result struct {
	// Revision of the commit, or the latest revision if nothing changed.
	Revision uint64
	Changed  bool
	// Audit is the first row that the transaction added to the audit, without its ID; nil if none.
	Audit *AuditEntry
}

// Check must hold for a Txn to commit. It is one of [KeyAt], [KindUnchanged].
type Check interface{ check() }

// KeyAt holds if the key's last write (of spec or labels) was at Revision; 0 means that the key
// does not exist.
type KeyAt struct {
	Key      mesh.Key
	Revision uint64
}

// KindUnchanged holds if no spec or label of the kind in the mesh (empty: in any) changed, appeared
// or went since Since.
type KindUnchanged struct {
	Kind  mesh.Kind
	Mesh  string
	Since uint64
}

func (KeyAt) check()         {}
func (KindUnchanged) check() {}

// Op is one write. It is one of [Put], [PutStatus], [Delete], [SetMeta], [Audit].
type Op interface{ op() }

// Put creates or replaces spec and labels. The store fills Revision, Generation, Created and
// Modified of what it stores (Created is kept from Resource if set, so that a copy keeps its
// owner's); Resource.Status is ignored: add a PutStatus of the same key to write both, which is one
// change. Another OriginRevision is a change too; Generation grows only if the spec differs. The
// store keeps Resource: do not change it afterwards.
type Put struct{ Resource *mesh.Resource }

// PutStatus replaces the status of an existing resource; it is dropped in silence if the resource is gone.
type PutStatus struct {
	Key    mesh.Key
	Status proto.Message
}

// Delete removes a resource; it is dropped in silence if there is none.
type Delete struct{ Key mesh.Key }

// SetMeta writes a named value beside the resources; it makes no change that a watch shows, and no
// revision of its own.
type SetMeta struct {
	Name  string
	Value []byte
}

func (Put) op()       {}
func (PutStatus) op() {}
func (Delete) op()    {}
func (SetMeta) op()   {}

// Commit is one revision of the log.
type Commit struct {
	Revision uint64
	Time     time.Time
	Author   string
	// Changes in the order of the operations.
	Changes []Change
}

// ChangeType says what a change is about.
type ChangeType int

// Change types.
const (
	// ChangeSpec: spec or labels were written.
	ChangeSpec ChangeType = iota + 1
	// ChangeStatus: only the status was written.
	ChangeStatus
	// ChangeDelete: the resource is gone.
	ChangeDelete
)

// Change of one resource.
type Change struct {
	Type ChangeType
	Key  mesh.Key
	// Resource as it is after the change; nil for ChangeDelete.
	Resource *mesh.Resource
	// Old is the resource as it was before; nil if it was created.
	Old *mesh.Resource
}

// Errors that callers act on.
var (
	// ErrNotFound: there is no such resource.
	ErrNotFound = errors.New("not found")
	// ErrCompacted: the log no longer reaches back to the revision asked for; take a Snapshot.
	ErrCompacted = errors.New("revision was compacted")
	// ErrUnavailable wraps the cause when the store cannot be reached; retry later.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrReset: the store went back to an earlier state, so that what was read of it may never have
	// been, and its revisions count from there again. Take a Snapshot and start over. It is an
	// ErrUnavailable for callers that start over anyway.
	ErrReset = fmt.Errorf("%w: it went back to an earlier state; read it again", ErrUnavailable)
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
)

// ConflictError says which check failed.
type ConflictError struct {
	Check Check
	// Revision found: the key's (0: absent), or that of the kind's last change.
	Revision uint64
}

func (e *ConflictError) Error() string {
	switch c := e.Check.(type) {
	case KeyAt:
		switch {
		case e.Revision == 0:
			return fmt.Sprintf("%s does not exist, expected revision %d", c.Key, c.Revision)
		case c.Revision == 0:
			return fmt.Sprintf("%s exists already (revision %d)", c.Key, e.Revision)
		}
		return fmt.Sprintf("%s is at revision %d, expected %d", c.Key, e.Revision, c.Revision)
	case KindUnchanged:
		return fmt.Sprintf("%s of mesh %q changed at revision %d, after %d", c.Kind, c.Mesh, e.Revision,
			c.Since)
	}
	return "conflict"
}

// InvalidError is a transaction or a call that makes no sense: a bug of the caller or a cursor of
// another store.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return "invalid: " + e.Reason }

// CorruptError says which file or row cannot be read, and what to do.
type CorruptError struct {
	Where string
	Err   error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged: %v; restore it from a backup, or move it away to start empty", e.Where,
		e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// Sealer encrypts secret specs. Implementations are safe for concurrent use.
type Sealer interface {
	// Seal encrypts plain, bound to context (the key as text): a sealed value moved to another key
	// does not open.
	Seal(plain, context []byte) ([]byte, error)
	// Open is the inverse of Seal.
	Open(sealed, context []byte) ([]byte, error)
	// Fingerprint names the key without revealing it: the store keeps it, and opening a store whose
	// kept fingerprint differs fails with [*WrongKeyError].
	Fingerprint() string
}

// WrongKeyError says that the encryption key is not the one the store was made with.
type WrongKeyError struct{ Want, Got string }

func (e *WrongKeyError) Error() string {
	return fmt.Sprintf("the encryption key has fingerprint %s, but this store was made with %s: use "+
		"that key (encryption.key in the data directory of the replica that made it)", e.Got, e.Want)
}
