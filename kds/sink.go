package kds

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// ConfigCursor is the name of the meta value in which a zone keeps its place in global's log.
const ConfigCursor = "kds/config/cursor"

// StateCursor is the name of the meta value in which global keeps its place in a zone's log.
func StateCursor(zone string) string { return "kds/state/" + zone + "/cursor" }

// SinkConfig configures a [Sink].
type SinkConfig struct {
	Direction Direction
	// Zone: down, the receiving zone; up, the sending one.
	Zone string
	// Author of transactions, such as "kds:global" or "zone:east".
	Author string
	// Epoch of the local store that the transactions are for; see [store.Txn].
	Epoch string
	// Validate refuses a resource, best with *mesh.ValidationError; nil accepts all.
	Validate func(*mesh.Resource) error
	// Kept is the meta value of what is kept of a former store of the zone, and Proxies says how many
	// proxies the zone had with the store of an id, 0 if unknown; up alone, and both may be nil.
	Kept    []byte
	Proxies func(storeID string) int
	// Orphans lists what the receiving zone owns in a mesh, which goes with the mesh; down alone, and may
	// be nil.
	Orphans func(meshName string) []mesh.Key
	// MaxQueue is how many frames may wait for a commit before the sender is in breach of the
	// protocol; 0 means 65536.
	MaxQueue int
	// MaxBytes of frames that wait, of a snapshot that is not complete and of rejections may be kept
	// before the sender is in breach of the protocol; 0 means no bound.
	MaxBytes int
}

// Apply is work for the host: commit Txn, then call [Sink.Applied].
type Apply struct {
	Txn store.Txn
	// Revision of the sender that is complete with it.
	Revision uint64
	// Committed is when the sender committed the oldest change in it; zero for snapshots.
	Committed time.Time
	// Snapshot says that it replaces everything; Reason why, Items how many resources.
	Snapshot bool
	Reason   kdsv1.Reset_Reason
	Items    int
	// Rejected items, left out of Txn.
	Rejected []*meshv1.Rejection
}

// Sink keeps copies of what the other side owns. It is used by one goroutine. The host calls [Sink.Recv]
// for every frame of the other side, commits what [Sink.Next] returns and confirms it with
// [Sink.Applied], and sends [Sink.Frames].
type Sink struct {
	cfg      SinkConfig
	schema   string
	withheld func(mesh.Kind) bool

	have     *versionVector
	rejected map[mesh.Key]rejectedItem
	kept     kept
	// alone is what a zone owned while it had no global; empty once there is a cursor.
	alone   map[mesh.Key]*mesh.Resource
	cursor  *kdsv1.Cursor // applied and, but for bookmarks, durable
	durable uint64        // revision of the cursor as stored

	queue      []*kdsv1.Frame
	busy       *Apply
	taken      bool
	afterwards func()

	collecting *kdsv1.Reset
	collected  []*kdsv1.Item

	queuedBytes, collectedBytes, rejectedBytes int

	out        []*kdsv1.Frame
	equal      bool
	asked      map[mesh.Kind]bool
	mismatches uint64
}

// stored is the form of a cursor's meta value.
type stored struct {
	StoreID  string                  `json:"store_id"`
	Revision uint64                  `json:"revision"`
	Schema   string                  `json:"schema"`
	Rejected map[string]rejectedItem `json:"rejected,omitempty"`
}

// NewSink makes a Sink from what the local store holds: the cursor's meta value (nil if none) and
// its resources, of which it picks those that the other side owns.
func NewSink(cfg SinkConfig, cursor []byte, resources iter.Seq[*mesh.Resource]) (*Sink, error) {
	if cfg.MaxQueue == 0 {
		cfg.MaxQueue = 65536
	}
	s := &Sink{
		cfg:      cfg,
		have:     newVersionVector(),
		rejected: map[mesh.Key]rejectedItem{},
		alone:    map[mesh.Key]*mesh.Resource{},
		equal:    true,
		asked:    map[mesh.Kind]bool{},
	}
	if err := s.loadKept(cfg.Kept); err != nil {
		return nil, err
	}
	for r := range resources {
		if !s.kept.keys[r.Key] && Exchanged(cfg.Direction, cfg.Zone, r.Key) {
			s.have.set(r.Key, s.fingerprint(r, r.OriginRevision))
			if len(cursor) == 0 && s.ownedAlone(r) {
				s.alone[r.Key] = r
			}
		}
	}
	if len(cursor) == 0 {
		return s, nil
	}
	var st stored
	if err := json.Unmarshal(cursor, &st); err != nil {
		return nil, fmt.Errorf("cursor of %s is not valid JSON: %w", cfg.Author, err)
	}
	s.cursor = &kdsv1.Cursor{StoreId: st.StoreID, Revision: st.Revision, Schema: st.Schema}
	s.durable = st.Revision
	for text, item := range st.Rejected {
		key, err := mesh.ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("cursor of %s: %w", cfg.Author, err)
		}
		s.keepRejected(key, item)
		s.have.set(key, item.Fingerprint)
	}
	return s, nil
}

func (s *Sink) fingerprint(r *mesh.Resource, version uint64) fingerprint {
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok || !carriesStatus(s.cfg.Direction, info, r.Key) {
		return fingerprintOf(r.Key, version, nil)
	}
	return fingerprintOf(r.Key, version, r.Status)
}

// Cursor is where to resume; nil if nothing was ever applied.
func (s *Sink) Cursor() *kdsv1.Cursor {
	if s.cursor == nil {
		return nil
	}
	return proto.Clone(s.cursor).(*kdsv1.Cursor)
}

// Agreed tells the Sink what was agreed; call it before the first Recv.
func (s *Sink) Agreed(a Agreement) { s.schema, s.withheld = a.Schema, a.Withheld }

// Recv takes a frame of the Source: Reset, Items, Bookmark, Delta or Digest. An error is a breach
// of protocol, after which the stream must end; nothing is lost by that.
func (s *Sink) Recv(f *kdsv1.Frame) error {
	if len(s.queue) >= s.cfg.MaxQueue {
		return fmt.Errorf("peer sent %d frames beyond its window", len(s.queue))
	}
	s.queue = append(s.queue, f)
	s.queuedBytes += proto.Size(f)
	if err := s.step(); err != nil {
		return err
	}
	kept := s.queuedBytes + s.collectedBytes + s.rejectedBytes
	if s.cfg.MaxBytes > 0 && kept > s.cfg.MaxBytes {
		return fmt.Errorf("peer makes this side keep %d bytes, and the limit is %d: they wait for a commit, "+
			"are of a snapshot without an end, or of rejections", kept, s.cfg.MaxBytes)
	}
	return nil
}

// Waiting is the number of frames that wait for a commit.
func (s *Sink) Waiting() int { return len(s.queue) }

func (s *Sink) step() error {
	for s.busy == nil && len(s.queue) > 0 {
		s.fold()
		f := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.queuedBytes -= proto.Size(f)
		if err := s.take(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sink) take(f *kdsv1.Frame) error {
	switch m := f.GetMessage().(type) {
	case *kdsv1.Frame_Reset_:
		if m.Reset_.GetStoreId() == "" {
			return errors.New("reset without a store id")
		}
		s.collecting, s.collected, s.collectedBytes = m.Reset_, nil, 0
	case *kdsv1.Frame_Items:
		if s.collecting == nil {
			return errors.New("items outside of a snapshot")
		}
		s.collected = append(s.collected, m.Items.GetItems()...)
		s.collectedBytes += proto.Size(f)
	case *kdsv1.Frame_Bookmark:
		if s.collecting != nil {
			if err := s.unfederated(s.collected); err != nil {
				return err
			}
			s.replace(m.Bookmark.GetRevision())
			return nil
		}
		return s.advance(m.Bookmark.GetRevision())
	case *kdsv1.Frame_Delta:
		return s.delta(m.Delta)
	case *kdsv1.Frame_Digest:
		s.compare(m.Digest)
	default:
		return fmt.Errorf("unexpected %T from a sender", m)
	}
	return nil
}

func (s *Sink) advance(revision uint64) error {
	if s.cursor == nil {
		return errors.New("bookmark before the first snapshot")
	}
	if revision > s.cursor.Revision {
		s.cursor.Revision = revision
	}
	s.cursor.Schema = s.schema
	s.ack(revision)
	return nil
}

func (s *Sink) ack(revision uint64) {
	s.out = append(s.out, &kdsv1.Frame{Message: &kdsv1.Frame_Ack{Ack: &kdsv1.Ack{Revision: revision}}})
}

// txn collects operations and rejections of one apply.
type txn struct {
	ops          []store.Op
	rejected     []*meshv1.Rejection
	fingerprints map[mesh.Key]fingerprint
}

func (s *Sink) upsert(t *txn, item *kdsv1.Item) {
	key := mesh.KeyFromProto(item.GetResource().GetKey())
	remember := true
	reject := func(field, reason string) {
		var status proto.Message
		if info, ok := mesh.Lookup(key.Kind); ok && info.NewStatus != nil &&
			item.GetResource().GetStatus() != nil {
			st := info.NewStatus()
			if item.GetResource().GetStatus().UnmarshalTo(st) == nil {
				status = st
			}
		}
		field, reason = cut(field), cut(reason)
		if remember {
			m := fingerprintOf(key, item.GetVersion(), status)
			t.fingerprints[key] = m
			s.keepRejected(key, rejectedItem{
				Version:     item.GetVersion(),
				Fingerprint: m,
				Field:       field,
				Reason:      reason,
			})
		}
		t.rejected = append(t.rejected, &meshv1.Rejection{
			Stage:    meshv1.Rejection_STAGE_STORE,
			Cause:    key.Proto(),
			Revision: item.GetVersion(),
			Field:    field,
			Reason:   reason,
		})
	}
	// What no store can have no Source sends: it is answered, and not remembered.
	if _, err := key.Check(); err != nil {
		remember = false
		reject("name", err.Error())
		return
	}
	if !Exchanged(s.cfg.Direction, s.cfg.Zone, key) {
		reject("", s.foreign(key))
		return
	}
	r, err := mesh.FromProto(item.GetResource())
	if err != nil {
		reject("spec", err.Error())
		return
	}
	if s.cfg.Validate != nil {
		if err := s.cfg.Validate(r); err != nil {
			field := ""
			var v *mesh.ValidationError
			if errors.As(err, &v) && len(v.Violations) > 0 {
				field = v.Violations[0].Field
			}
			reject(field, err.Error())
			return
		}
	}
	status := r.Status
	r.Status, r.OriginRevision = nil, item.GetVersion()
	s.forgetRejected(key)
	s.unkeep(key)
	t.ops = append(t.ops, store.Put{Resource: r})
	info, _ := mesh.Lookup(key.Kind)
	if !carriesStatus(s.cfg.Direction, info, key) {
		status = nil
	} else {
		t.ops = append(t.ops, store.PutStatus{Key: key, Status: status})
	}
	t.fingerprints[key] = fingerprintOf(key, item.GetVersion(), status)
}

// replace applies a snapshot.
func (s *Sink) replace(revision uint64) {
	t := &txn{fingerprints: map[mesh.Key]fingerprint{}}
	reset, items := s.collecting, s.collected
	s.collecting, s.collected, s.collectedBytes = nil, nil, 0
	old := s.rejected
	s.rejected, s.rejectedBytes = map[mesh.Key]rejectedItem{}, 0
	sent := make(map[mesh.Key]bool, len(items))
	for _, item := range items {
		key := mesh.KeyFromProto(item.GetResource().GetKey())
		if sent[key] {
			continue
		}
		sent[key] = true
		s.upsert(t, item)
	}
	gone := s.absent(sent, func(k mesh.Key) bool { return s.withheld == nil || !s.withheld(k.Kind) })
	if s.keep(reset.GetStoreId()) {
		s.keepAll(gone)
	} else {
		for _, key := range gone {
			t.ops = append(t.ops, store.Delete{Key: key})
		}
	}
	// A global that lost its store lacks meshes that no user deleted.
	if StoreOf(reset.GetStoreId()) == StoreOf(s.cursor.GetStoreId()) {
		s.removeOrphans(t, gone)
	}
	for key, item := range old {
		if _, ok := s.rejected[key]; !ok && s.withheld != nil && s.withheld(key.Kind) {
			s.keepRejected(key, item)
		}
	}
	cursor := &kdsv1.Cursor{StoreId: reset.GetStoreId(), Revision: revision, Schema: s.schema}
	s.begin(t, cursor, gone, Apply{
		Revision: revision,
		Snapshot: true,
		Reason:   reset.GetReason(),
		Items:    len(items),
	})
}

// absent lists what the Sink has and was not sent, of the keys that pick allows, in order.
func (s *Sink) absent(sent map[mesh.Key]bool, pick func(mesh.Key) bool) []mesh.Key {
	var gone []mesh.Key
	for key := range s.have.fingerprints {
		if !sent[key] && pick(key) {
			gone = append(gone, key)
		}
	}
	sort.Slice(gone, func(i, j int) bool { return gone[i].Compare(gone[j]) < 0 })
	return gone
}

func (s *Sink) delta(d *kdsv1.Delta) error {
	switch {
	case s.collecting != nil:
		return errors.New("delta inside of a snapshot")
	case s.cursor == nil:
		return errors.New("delta before the first snapshot")
	case d.GetFrom() > s.cursor.GetRevision():
		return fmt.Errorf("gap: a delta from revision %d, but only %d is applied", d.GetFrom(),
			s.cursor.GetRevision())
	case d.GetRevision() < d.GetFrom():
		return fmt.Errorf("a delta that goes back, from revision %d to %d", d.GetFrom(), d.GetRevision())
	case d.GetRevision() < s.cursor.GetRevision(),
		d.GetRevision() == s.cursor.GetRevision() && d.GetFrom() < d.GetRevision() &&
			len(d.GetCompleteKinds()) == 0:
		s.ack(d.GetRevision()) // a repetition
		return nil
	}
	t := &txn{fingerprints: map[mesh.Key]fingerprint{}}
	sent := make(map[mesh.Key]bool, len(d.GetUpserts()))
	for _, item := range d.GetUpserts() {
		key := mesh.KeyFromProto(item.GetResource().GetKey())
		if sent[key] {
			return fmt.Errorf("a delta with two items of %s", key)
		}
		sent[key] = true
		s.upsert(t, item)
	}
	var gone []mesh.Key
	for _, p := range d.GetDeletes() {
		key := mesh.KeyFromProto(p)
		if sent[key] {
			return fmt.Errorf("a delta that writes and deletes %s", key)
		}
		sent[key] = true
		if !Exchanged(s.cfg.Direction, s.cfg.Zone, key) && !s.have.has(key) {
			t.rejected = append(t.rejected, &meshv1.Rejection{
				Stage:  meshv1.Rejection_STAGE_STORE,
				Cause:  key.Proto(),
				Reason: s.foreign(key),
			})
			continue
		}
		gone = append(gone, key)
	}
	if len(d.GetCompleteKinds()) > 0 {
		gone = append(gone, s.absent(sent,
			func(k mesh.Key) bool { return slices.Contains(d.GetCompleteKinds(), string(k.Kind)) })...)
		for _, kind := range d.GetCompleteKinds() {
			delete(s.asked, mesh.Kind(kind))
		}
	}
	for _, key := range gone {
		s.forgetRejected(key)
		s.unkeep(key)
		if Exchanged(s.cfg.Direction, s.cfg.Zone, key) {
			t.ops = append(t.ops, store.Delete{Key: key})
		}
	}
	s.removeOrphans(t, gone)
	cursor := &kdsv1.Cursor{StoreId: s.cursor.GetStoreId(), Revision: d.GetRevision(), Schema: s.schema}
	a := Apply{Revision: d.GetRevision(), Items: len(sent)}
	if d.GetCommitted() != nil {
		a.Committed = d.GetCommitted().AsTime()
	}
	s.begin(t, cursor, gone, a)
	return nil
}

// removeOrphans removes what the zone itself owns in meshes that are gone: nothing else could, and it would
// be in force again when a mesh of the name is created.
func (s *Sink) removeOrphans(t *txn, gone []mesh.Key) {
	if s.cfg.Orphans == nil {
		return
	}
	for _, key := range gone {
		if key.Kind != mesh.KindMesh {
			continue
		}
		for _, orphan := range s.cfg.Orphans(key.Name) {
			t.ops = append(t.ops, store.Delete{Key: orphan})
		}
	}
}

// begin makes t the transaction in progress; what it changes here happens when it is applied.
func (s *Sink) begin(t *txn, cursor *kdsv1.Cursor, gone []mesh.Key, a Apply) {
	a.Rejected = t.rejected
	ops := append(append(t.ops, s.meta(cursor)), s.keptMeta()...)
	a.Txn = store.Txn{Author: s.cfg.Author, Epoch: s.cfg.Epoch, Ops: ops}
	s.busy, s.taken = &a, false
	s.afterwards = func() {
		for _, key := range gone {
			s.have.remove(key)
		}
		for key, m := range t.fingerprints {
			s.have.set(key, m)
		}
		s.cursor, s.durable = cursor, cursor.GetRevision()
		if len(t.rejected) > 0 {
			s.out = append(s.out, &kdsv1.Frame{Message: &kdsv1.Frame_Nack{Nack: &kdsv1.Nack{
				Revision:   a.Revision,
				Rejections: t.rejected,
			}}})
		}
		s.ack(a.Revision)
	}
}

func (s *Sink) meta(cursor *kdsv1.Cursor) store.SetMeta {
	st := stored{StoreID: cursor.GetStoreId(), Revision: cursor.GetRevision(), Schema: cursor.GetSchema()}
	if len(s.rejected) > 0 {
		st.Rejected = make(map[string]rejectedItem, len(s.rejected))
		for key, item := range s.rejected {
			st.Rejected[key.String()] = item
		}
	}
	b, err := json.Marshal(st)
	if err != nil {
		panic(fmt.Sprintf("kds: marshal cursor: %v", err)) // strings and numbers alone
	}
	return store.SetMeta{Name: s.cursorName(), Value: b}
}

func (s *Sink) cursorName() string {
	if s.cfg.Direction == Up {
		return StateCursor(s.cfg.Zone)
	}
	return ConfigCursor
}

// Next returns the transaction to commit now, each once. There is one at a time.
func (s *Sink) Next() (Apply, bool) {
	if s.busy == nil || s.taken {
		return Apply{}, false
	}
	s.taken = true
	return *s.busy, true
}

// Applied says that the last transaction of Next is durable. The error is a breach of protocol in
// frames that waited.
func (s *Sink) Applied() error {
	if s.busy == nil || !s.taken {
		panic("kds: Applied without a transaction in progress")
	}
	s.afterwards()
	s.busy, s.afterwards = nil, nil
	return s.step()
}

// Frames to send, in order; each is returned once.
func (s *Sink) Frames() []*kdsv1.Frame {
	out := s.out
	s.out = nil
	return out
}

// Flush is a transaction that makes a cursor durable that only bookmarks have moved; hosts commit
// it now and then, never while one of Next is in progress. Nothing breaks without it: resuming
// would read a longer stretch of the log.
func (s *Sink) Flush() (store.Txn, bool) {
	if s.busy != nil || s.cursor == nil || s.cursor.GetRevision() == s.durable {
		return store.Txn{}, false
	}
	s.durable = s.cursor.GetRevision()
	return store.Txn{Author: s.cfg.Author, Epoch: s.cfg.Epoch, Ops: []store.Op{s.meta(s.cursor)}}, true
}

func (s *Sink) compare(theirs *kdsv1.Digest) {
	if s.cursor == nil || theirs.GetRevision() != s.cursor.GetRevision() {
		return
	}
	mine := s.have.digest(theirs.GetRevision())
	if s.withheld != nil {
		mine.Kinds = slices.DeleteFunc(mine.Kinds,
			func(d *kdsv1.KindDigest) bool { return s.withheld(mesh.Kind(d.GetKind())) })
	}
	if theirs.Summary != nil {
		if all := summarize(mine); all.GetSummary() == theirs.GetSummary() {
			mine, s.equal = all, true
		}
		// If it differs, the Source sends the digest of every kind next.
		s.out = append(s.out, &kdsv1.Frame{Message: &kdsv1.Frame_Digest{Digest: mine}})
		return
	}
	s.out = append(s.out, &kdsv1.Frame{Message: &kdsv1.Frame_Digest{Digest: mine}})
	kinds := differing(mine, theirs)
	s.equal = len(kinds) == 0
	for _, kind := range kinds {
		s.mismatches++
		if s.asked[kind] {
			continue // on its way
		}
		s.asked[kind] = true
		s.out = append(s.out,
			&kdsv1.Frame{Message: &kdsv1.Frame_ResetKind{ResetKind: &kdsv1.ResetKind{Kind: string(kind)}}})
	}
}

// Epoch of the local store that the Sink was made from.
func (s *Sink) Epoch() string { return s.cfg.Epoch }

// Revision of the sender up to which everything is applied.
func (s *Sink) Revision() uint64 { return s.cursor.GetRevision() }

// Equal is the outcome of the last comparison of digests; true before the first.
func (s *Sink) Equal() bool { return s.equal }

// Mismatches counts kinds found to differ.
func (s *Sink) Mismatches() uint64 { return s.mismatches }
