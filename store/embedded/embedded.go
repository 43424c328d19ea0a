package embedded

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/btree"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// tailLength is how many recent commits stay in memory; up to twice as many between trims.
const tailLength = 1024

// Config of a Store.
type Config struct {
	// Dir is created if absent. Required unless InMemory.
	Dir string
	// Sealer encrypts secrets. Required unless InMemory.
	Sealer store.Sealer
	// Owner of the store; the zero Owner opens that of any.
	Owner store.Owner
	// Logger may be nil.
	Logger *zap.Logger
	// Registerer may be nil. One store per registerer.
	Registerer prometheus.Registerer
	// InMemory keeps everything in memory and loses it on Close: for tests.
	InMemory bool
}

// Store implements [store.Store]; see the package comment.
type Store struct {
	id      string
	epoch   string
	file    *file // nil if in memory
	log     *zap.Logger
	metrics metrics
	queue   *txn.Queue

	state  atomic.Pointer[state] // replaced by the holder of the queue's write lock alone
	failed error                 // set once if memory and file may differ; guarded by the write lock
}

var _ store.Store = (*Store)(nil)

// state is everything at one revision. It is immutable but for what closing next announces.
type state struct {
	revision  uint64
	compacted uint64
	resources *btree.BTreeG[*mesh.Resource]
	kinds     *btree.Map[string, uint64]
	meta      map[string][]byte
	// tail is the last commits, without holes, the newest last.
	tail []store.Commit
	// audit is that of a store in memory, ascending; a file holds its own. auditID is the last ID.
	audit   []store.AuditEntry
	auditID uint64
	// next is closed when this state is replaced.
	next chan struct{}
}

type metrics struct {
	commits prometheus.Counter
	group   prometheus.Histogram
	write   prometheus.Histogram
}

// Open opens or creates a store. Errors: [*store.CorruptError], [*store.WrongKeyError],
// [*store.OwnerError], and that another process has it.
func Open(c Config) (*Store, error) {
	s := &Store{log: c.Logger}
	s.queue = txn.NewQueue(maxGroup, s.write)
	if s.log == nil {
		s.log = zap.NewNop()
	}
	s.metrics = metrics{
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_store_commits_total",
			Help: "Revisions committed by this process. A rate far above the rate of real changes " +
				"means that " +
				"something writes in a loop.",
		}),
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "meridian_store_group_transactions_count",
			Help:    "Transactions written with one flush. Large groups mean that writers wait for the disk.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		write: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meridian_store_write_seconds",
			Help: "Time to write a group of transactions, flush included. More than 0.1 s means a slow " +
				"disk; every write waits that long.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
	first := &state{
		resources: btree.NewBTreeGOptions(func(a, b *mesh.Resource) bool { return a.Key.Compare(b.Key) < 0 },
			btree.Options{NoLocks: true}),
		kinds: &btree.Map[string, uint64]{},
		meta:  map[string][]byte{},
		next:  make(chan struct{}),
	}
	if c.InMemory {
		id := make([]byte, 16)
		if _, err := rand.Read(id); err != nil {
			return nil, err
		}
		s.id = hex.EncodeToString(id)
		s.epoch = s.id
	} else {
		switch {
		case c.Dir == "":
			return nil, errors.New("the embedded store needs a data directory")
		case c.Sealer == nil:
			return nil, errors.New("the embedded store needs an encryption key")
		}
		f, err := openFile(c.Dir, c.Sealer, c.Owner, first)
		if err != nil {
			return nil, err
		}
		s.file, s.id, s.epoch = f, f.id, f.id
		if f.epoch != "" {
			s.epoch += "-" + f.epoch
		}
	}
	s.state.Store(first)
	if c.Registerer != nil {
		for _, m := range []prometheus.Collector{s.metrics.commits, s.metrics.group, s.metrics.write} {
			if err := c.Registerer.Register(m); err != nil {
				s.log.Warn("a metric of the store is not registered", zap.Error(err))
			}
		}
	}
	return s, nil
}

// ID implements [store.Store].
func (s *Store) ID() string { return s.id }

// Epoch implements [store.Store].
func (s *Store) Epoch() string { return s.epoch }

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, key mesh.Key) (*mesh.Resource, error) {
	if err := s.queue.Check(ctx); err != nil {
		return nil, err
	}
	if r := s.state.Load().Resource(key); r != nil {
		return r, nil
	}
	return nil, store.ErrNotFound
}

// Meta implements [store.Store].
func (s *Store) Meta(ctx context.Context, name string) ([]byte, error) {
	if err := s.queue.Check(ctx); err != nil {
		return nil, err
	}
	return bytes.Clone(s.state.Load().meta[name]), nil
}

// Revision implements [store.Store].
func (s *Store) Revision(ctx context.Context) (uint64, error) {
	if err := s.queue.Check(ctx); err != nil {
		return 0, err
	}
	return s.state.Load().revision, nil
}

// Snapshot implements [store.Store].
func (s *Store) Snapshot(ctx context.Context) (store.Snapshot, error) {
	if err := s.queue.Check(ctx); err != nil {
		return store.Snapshot{}, err
	}
	st := s.state.Load()
	snapshot := store.Snapshot{
		Epoch:     s.Epoch(),
		Revision:  st.revision,
		Resources: make([]*mesh.Resource, 0, st.resources.Len()),
	}
	st.resources.Scan(func(r *mesh.Resource) bool {
		snapshot.Resources = append(snapshot.Resources, r)
		return true
	})
	return snapshot, nil
}

// History implements [store.Store].
func (s *Store) History(ctx context.Context, key mesh.Key, limit int) ([]store.Commit, error) {
	if err := s.queue.Check(ctx); err != nil {
		return nil, err
	}
	if s.file != nil {
		return s.file.history(key, limit)
	}
	var found []store.Commit
	st := s.state.Load()
	for i := len(st.tail) - 1; i >= 0 && (limit <= 0 || len(found) < limit); i-- {
		if st.tail[i].Revision <= st.compacted {
			break
		}
		if c, ok := only(st.tail[i], key); ok {
			found = append(found, c)
		}
	}
	return found, nil
}

// only is the commit with the changes of one key alone.
func only(c store.Commit, key mesh.Key) (store.Commit, bool) {
	for _, ch := range c.Changes {
		if ch.Key == key {
			c.Changes = []store.Change{ch}
			return c, true
		}
	}
	return c, false
}

// Compact implements [store.Store].
func (s *Store) Compact(ctx context.Context, through uint64) error {
	if err := s.queue.Lock(ctx); err != nil {
		return err
	}
	st := *s.state.Load()
	through = min(through, st.revision)
	if through <= st.compacted {
		s.queue.Unlock()
		return nil
	}
	st.compacted = through
	if s.file != nil {
		if err := s.file.compacted(through); err != nil {
			s.queue.Unlock()
			return err
		}
	}
	for len(st.tail) > 0 && st.tail[0].Revision <= through {
		st.tail = st.tail[1:]
	}
	s.publish(&st)
	s.queue.Unlock()
	if s.file == nil {
		return nil
	}
	// The entries are out of reach already; dropping them takes many short file transactions
	// between those of writers.
	return s.file.drop(ctx, through)
}

// Close implements [store.Store].
func (s *Store) Close() error {
	if !s.queue.Close() {
		return nil
	}
	if s.file == nil {
		return nil
	}
	return s.file.close()
}

// Resource implements [txn.State].
func (st *state) Resource(key mesh.Key) *mesh.Resource {
	r, _ := st.resources.Get(&mesh.Resource{Key: key})
	return r
}

// KindRevision implements [txn.State].
func (st *state) KindRevision(kind mesh.Kind, meshName string) uint64 {
	rev, _ := st.kinds.Get(kindName(txn.KindRef{Kind: kind, Mesh: meshName}))
	return rev
}

func kindName(ref txn.KindRef) string { return string(ref.Kind) + "/" + ref.Mesh }

// with is the state after a group. st stays as it is; the caller holds the write lock.
func (st *state) with(g *group) *state {
	next := &state{
		revision:  g.revision,
		compacted: st.compacted,
		resources: st.resources,
		kinds:     st.kinds,
		meta:      st.meta,
		tail:      st.tail,
		audit:     st.audit,
		auditID:   st.auditID,
	}
	if len(g.commits) > 0 {
		next.resources, next.kinds = st.resources.Copy(), st.kinds.Copy()
		for key, r := range g.overlay.Written() {
			if r == nil {
				next.resources.Delete(&mesh.Resource{Key: key})
			} else {
				next.resources.Set(r)
			}
		}
		for ref, rev := range g.overlay.WrittenKinds() {
			next.kinds.Set(kindName(ref), rev)
		}
	}
	if len(g.meta) > 0 {
		next.meta = maps.Clone(st.meta)
		maps.Copy(next.meta, g.meta)
	}
	if g.inMemory {
		for _, e := range g.audit {
			next.auditID++
			e.ID = next.auditID
			next.audit = append(next.audit, e)
		}
	}
	// Appending never touches what older states see of the array.
	next.tail = append(st.tail, g.commits...)
	return next
}

// publish makes st the latest state. The caller holds the write lock.
func (s *Store) publish(st *state) {
	if s.file != nil && len(st.tail) > 2*tailLength {
		st.tail = append(make([]store.Commit, 0, 3*tailLength), st.tail[len(st.tail)-tailLength:]...)
	}
	st.next = make(chan struct{})
	if old := s.state.Swap(st); old != nil {
		close(old.next)
	}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
