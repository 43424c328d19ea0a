package kds

import (
	"fmt"
	"iter"
	"sort"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// Defaults of SourceConfig, in bytes.
const (
	DefaultWindow   = 1 << 20
	DefaultChunk    = 256 << 10
	DefaultMaxDelta = 16 << 20
)

// Reasons of a Reset.
const (
	// NoReset: the stream resumed.
	NoReset        = kdsv1.Reset_REASON_UNSPECIFIED
	ResetFirst     = kdsv1.Reset_REASON_FIRST
	ResetCompacted = kdsv1.Reset_REASON_COMPACTED
	ResetStore     = kdsv1.Reset_REASON_STORE_CHANGED
	ResetSchema    = kdsv1.Reset_REASON_SCHEMA_CHANGED
	ResetTooLarge  = kdsv1.Reset_REASON_CHANGE_TOO_LARGE
)

// ReasonText is a reason in words, such as "store changed", for logs and metrics; empty if there is none.
func ReasonText(r kdsv1.Reset_Reason) string {
	if r == kdsv1.Reset_REASON_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(r.String(), "REASON_"), "_", " "))
}

// State is an immutable copy of a store at a revision; a replica.View is one.
type State interface {
	Revision() uint64
	Get(mesh.Key) (*mesh.Resource, bool)
	All() iter.Seq[*mesh.Resource]
}

// SourceConfig configures a [Source].
type SourceConfig struct {
	// StoreID of the store whose changes are sent.
	StoreID string
	// Schema is the fingerprint of the agreement; see [Agree].
	Schema string
	View   *View
	// Window is how many unacked bytes end sending; 0 means DefaultWindow. One frame may exceed it.
	Window int
	// Chunk is about how many bytes of a snapshot go in one frame; 0 means DefaultChunk.
	Chunk int
	// MaxDelta bytes; a larger change is sent as a snapshot. 0 means DefaultMaxDelta.
	MaxDelta int
	// LazyBookmarks leaves it to [Source.Announce] when a Bookmark tells the other side that nothing
	// of a revision is for it; else that is sent at once.
	LazyBookmarks bool
}

// Source sends the other side what it may see of a store. It is used by one goroutine. The host calls
// [Source.Resume] or [Source.Reset] once, [Source.Advance] for every change of the store,
// [Source.Recv] for every frame of the other side, and [Source.Next] whenever it can send.
type Source struct {
	cfg   SourceConfig
	state State

	remote   *versionVector // what the other side has after applying all that was sent
	sent     uint64         // last revision sent in a frame
	acked    uint64
	inFlight []inFlightFrame
	unacked  int

	pending  map[mesh.Key]bool
	complete map[mesh.Kind]bool
	oldest   time.Time // commit time of the oldest pending change

	resetReason kdsv1.Reset_Reason // a Reset is due
	snapshot    []*mesh.Resource
	snapshotRev uint64
	snapshotLen int // bytes sent of it
	sending     bool

	announce   bool // a Bookmark is due
	digestDue  bool
	summaryDue bool
	lastDigest *kdsv1.Digest // of every kind
	// lastSummary says that only the summary of lastDigest was sent.
	lastSummary bool
	equal       bool
	rejections  map[mesh.Key]*meshv1.Rejection
	stats       SourceStats
}

type inFlightFrame struct {
	revision  uint64
	bytes     int
	committed time.Time
}

// SourceStats counts what a Source did.
type SourceStats struct {
	Frames, Bytes, Deltas, Bookmarks uint64
	// Items sent in deltas and snapshots, deletes included.
	Items uint64
	// Resets by reason; kind resets are under "kind".
	Resets     map[string]uint64
	Mismatches uint64
}

// NewSource makes a Source that waits for Resume or Reset.
func NewSource(cfg SourceConfig) *Source {
	if cfg.Window == 0 {
		cfg.Window = DefaultWindow
	}
	if cfg.Chunk == 0 {
		cfg.Chunk = DefaultChunk
	}
	if cfg.MaxDelta == 0 {
		cfg.MaxDelta = DefaultMaxDelta
	}
	return &Source{
		cfg:        cfg,
		remote:     newVersionVector(),
		pending:    map[mesh.Key]bool{},
		complete:   map[mesh.Kind]bool{},
		equal:      true,
		rejections: map[mesh.Key]*meshv1.Rejection{},
		stats:      SourceStats{Resets: map[string]uint64{}},
	}
}

// Resumable says whether cursor can be resumed as far as it tells; if not, the reason for a Reset.
func (c SourceConfig) Resumable(cursor *kdsv1.Cursor) (reason kdsv1.Reset_Reason, ok bool) {
	switch {
	case cursor.GetStoreId() == "":
		return ResetFirst, false
	case cursor.GetStoreId() != c.StoreID:
		return ResetStore, false
	case cursor.GetSchema() != c.Schema:
		return ResetSchema, false
	}
	return 0, true
}

// Reset begins with a snapshot of state.
func (s *Source) Reset(state State, reason kdsv1.Reset_Reason) {
	s.state = state
	s.noteZones()
	s.resetReason = reason
}

// Resume begins at the other side's cursor. changes are all of (cursor, state's revision], in any merge;
// committed is when the oldest of them was.
func (s *Source) Resume(state State, cursor uint64, changes []store.Change, committed time.Time) {
	s.state, s.sent, s.acked = state, cursor, cursor
	s.noteZones()
	for r := range state.All() {
		if seen := s.cfg.View.See(r); seen != nil {
			s.remote.set(seen.Key, fingerprintOf(seen.Key, seen.Revision, seen.Status))
		}
	}
	for _, c := range changes {
		if c.Type == store.ChangeStatus {
			if info, ok := mesh.Lookup(c.Key.Kind); !ok || !carriesStatus(s.cfg.View.Direction, info, c.Key) {
				continue
			}
		}
		s.markDirty(c.Key)
		if c.Key.Kind == mesh.KindZone {
			s.markZoneDirty(c.Key.Name)
		}
	}
	if len(s.pending) > 0 {
		s.oldest = committed
	}
	// What the other side has of the changed keys is unknown. No resource has the fingerprint 0, so
	// each of them is sent, or deleted.
	for key := range s.pending {
		s.remote.set(s.cfg.View.SeenKey(key), 0)
	}
	s.digestDue = true
}

// Advance takes the next state and what changed since the last one; committed is when the oldest of it was.
func (s *Source) Advance(state State, changes []store.Change, committed time.Time) {
	s.state = state
	for _, c := range changes {
		s.markDirty(c.Key)
		if c.Key.Kind == mesh.KindZone && s.cfg.View.NoteZone(c.Key.Name, c.Resource) {
			s.markZoneDirty(c.Key.Name)
		}
	}
	if len(s.pending) > 0 && s.oldest.IsZero() {
		s.oldest = committed
	}
}

// Refresh looks at keys again, because the View's answer for them changed; at is the time of that.
func (s *Source) Refresh(at time.Time, keys ...mesh.Key) {
	for _, k := range keys {
		s.markDirty(k)
	}
	if len(s.pending) > 0 && s.oldest.IsZero() {
		s.oldest = at
	}
}

func (s *Source) markDirty(key mesh.Key) {
	if Exchanged(s.cfg.View.Direction, s.cfg.View.Zone, s.cfg.View.SeenKey(key)) {
		s.pending[key] = true
	}
}

func (s *Source) markZoneDirty(name string) {
	for r := range s.state.All() {
		if r.Key.Zone == name {
			s.markDirty(r.Key)
		}
	}
}

func (s *Source) noteZones() {
	for r := range s.state.All() {
		if r.Key.Kind == mesh.KindZone {
			s.cfg.View.NoteZone(r.Key.Name, r)
		}
	}
}

// WantsSnapshot says that the next frame would begin a snapshot; a host that limits snapshots asks
// before Next.
func (s *Source) WantsSnapshot() bool { return s.resetReason != 0 }

// InSnapshot says that a snapshot has begun and its bookmark is not acked.
func (s *Source) InSnapshot() bool {
	return s.sending || (s.snapshotRev > 0 && s.acked < s.snapshotRev)
}

// Next returns the next frame to send, nil if there is none now: nothing changed, or the window is full.
func (s *Source) Next() (*kdsv1.Frame, error) {
	f, err := s.next()
	if f != nil {
		s.stats.Frames++
		s.stats.Bytes += uint64(proto.Size(f))
	}
	return f, err
}

func (s *Source) next() (*kdsv1.Frame, error) {
	switch {
	case s.state == nil:
		return nil, nil
	case s.resetReason != 0:
		return s.begin(), nil
	case s.sending:
		return s.chunk()
	case s.unacked >= s.cfg.Window:
		return nil, nil
	case len(s.pending) > 0 || len(s.complete) > 0:
		f, err := s.delta()
		if f != nil || err != nil {
			return f, err
		}
		return s.next()
	case s.state.Revision() > s.sent && (s.announce || !s.cfg.LazyBookmarks):
		// One bookmark in inFlightFrame is enough; the next covers all that came meanwhile.
		if len(s.inFlight) > 0 {
			return nil, nil
		}
		s.sent, s.announce = s.state.Revision(), false
		s.stats.Bookmarks++
		return s.track(
			&kdsv1.Frame{Message: &kdsv1.Frame_Bookmark{Bookmark: &kdsv1.Bookmark{Revision: s.sent}}}, 0,
			time.Time{}), nil
	case s.digestDue:
		s.digestDue, s.summaryDue = false, false
		s.lastDigest, s.lastSummary = s.remote.digest(s.sent), false
		return &kdsv1.Frame{Message: &kdsv1.Frame_Digest{Digest: s.lastDigest}}, nil
	case s.summaryDue:
		s.summaryDue = false
		s.lastDigest, s.lastSummary = s.remote.digest(s.sent), true
		return &kdsv1.Frame{Message: &kdsv1.Frame_Digest{Digest: summarize(s.lastDigest)}}, nil
	}
	return nil, nil
}

func (s *Source) track(f *kdsv1.Frame, more int, committed time.Time) *kdsv1.Frame {
	n := proto.Size(f) + more
	s.inFlight = append(s.inFlight, inFlightFrame{revision: s.sent, bytes: n, committed: committed})
	s.unacked += n
	return f
}

func (s *Source) begin() *kdsv1.Frame {
	reason := s.resetReason
	s.resetReason, s.sending = 0, true
	s.stats.Resets[ReasonText(reason)]++
	s.remote, s.snapshot, s.snapshotLen = newVersionVector(), nil, 0
	clear(s.pending)
	clear(s.complete)
	clear(s.rejections)
	s.oldest = time.Time{}
	s.inFlight, s.unacked = nil, 0
	s.snapshotRev = s.state.Revision()
	for r := range s.state.All() {
		if seen := s.cfg.View.See(r); seen != nil {
			s.snapshot = append(s.snapshot, seen)
		}
	}
	return &kdsv1.Frame{Message: &kdsv1.Frame_Reset_{Reset_: &kdsv1.Reset{
		StoreId: s.cfg.StoreID,
		Reason:  reason,
	}}}
}

func (s *Source) chunk() (*kdsv1.Frame, error) {
	if len(s.snapshot) == 0 {
		s.sending, s.snapshot = false, nil
		s.sent, s.digestDue = s.snapshotRev, true
		f := &kdsv1.Frame{Message: &kdsv1.Frame_Bookmark{Bookmark: &kdsv1.Bookmark{Revision: s.sent}}}
		return s.track(f, s.snapshotLen, time.Time{}), nil
	}
	items := &kdsv1.Items{}
	size := 0
	for len(s.snapshot) > 0 && size < s.cfg.Chunk {
		r := s.snapshot[0]
		item, err := encode(r)
		if err != nil {
			return nil, err
		}
		n := proto.Size(item)
		if size > 0 && size+n > s.cfg.Chunk {
			break
		}
		size += n
		items.Items = append(items.Items, item)
		s.remote.set(r.Key, fingerprintOf(r.Key, r.Revision, r.Status))
		s.snapshot[0] = nil
		s.snapshot = s.snapshot[1:]
	}
	s.stats.Items += uint64(len(items.Items))
	s.snapshotLen += size
	return &kdsv1.Frame{Message: &kdsv1.Frame_Items{Items: items}}, nil
}

// delta sends all pending changes, or nil if none of them concerns the other side.
func (s *Source) delta() (*kdsv1.Frame, error) {
	d := &kdsv1.Delta{From: s.sent, Revision: s.state.Revision()}
	if !s.oldest.IsZero() {
		d.Committed = timestamppb.New(s.oldest)
	}
	for kind := range s.complete {
		d.CompleteKinds = append(d.CompleteKinds, string(kind))
		s.stats.Resets["kind"]++
	}
	sort.Strings(d.CompleteKinds)
	if len(s.complete) > 0 {
		for key := range s.remote.fingerprints {
			if s.complete[key.Kind] {
				s.remote.remove(key)
			}
		}
		for r := range s.state.All() {
			if s.complete[r.Key.Kind] {
				s.pending[r.Key] = true
			}
		}
	}
	keys := make([]mesh.Key, 0, len(s.pending))
	for key := range s.pending {
		keys = append(keys, key)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].Compare(keys[j]) < 0 })
	size := 0
	for _, key := range keys {
		r, _ := s.state.Get(key)
		var seen *mesh.Resource
		if r != nil {
			seen = s.cfg.View.See(r)
		}
		if seen == nil {
			gone := s.cfg.View.SeenKey(key)
			delete(s.rejections, gone)
			if s.remote.has(gone) {
				s.remote.remove(gone)
				d.Deletes = append(d.Deletes, gone.Proto())
				size += proto.Size(d.Deletes[len(d.Deletes)-1])
			}
			continue
		}
		m := fingerprintOf(seen.Key, seen.Revision, seen.Status)
		if old, ok := s.remote.fingerprints[seen.Key]; ok && old == m {
			continue
		}
		item, err := encode(seen)
		if err != nil {
			return nil, err
		}
		s.remote.set(seen.Key, m)
		delete(s.rejections, seen.Key)
		d.Upserts = append(d.Upserts, item)
		if size += proto.Size(item); size > s.cfg.MaxDelta {
			s.resetReason = ResetTooLarge
			return s.begin(), nil
		}
	}
	committed := s.oldest
	clear(s.pending)
	clear(s.complete)
	s.oldest = time.Time{}
	if len(d.Upserts)+len(d.Deletes)+len(d.CompleteKinds) == 0 {
		return nil, nil
	}
	if len(d.CompleteKinds) > 0 {
		s.digestDue = true
	}
	s.sent, s.announce = d.Revision, false
	s.stats.Deltas++
	s.stats.Items += uint64(len(d.Upserts) + len(d.Deletes))
	return s.track(&kdsv1.Frame{Message: &kdsv1.Frame_Delta{Delta: d}}, 0, committed), nil
}

func encode(r *mesh.Resource) (*kdsv1.Item, error) {
	p, err := r.Proto()
	if err != nil {
		return nil, err
	}
	p.Revision, p.StatusRevision, p.OriginRevision, p.Generation, p.Modified = 0, 0, 0, 0, nil
	return &kdsv1.Item{Resource: p, Version: r.Revision}, nil
}

// Answer is what a Sink's frame told a Source.
type Answer struct {
	// Acked are the commit times of changes that became durable with this frame, oldest first.
	Acked []time.Time
	// Rejected are new rejections.
	Rejected []*meshv1.Rejection
	// Mismatch names the kinds that differ on the other side, which asks for them itself.
	Mismatch []mesh.Kind
}

// Recv takes a frame of the Sink: Ack, Nack, Digest or ResetKind. An error is a breach of protocol.
func (s *Source) Recv(f *kdsv1.Frame) (Answer, error) {
	var a Answer
	switch m := f.GetMessage().(type) {
	case *kdsv1.Frame_Ack:
		rev := m.Ack.GetRevision()
		if rev > s.sent {
			return a, fmt.Errorf("peer acked revision %d, but was only sent up to %d", rev, s.sent)
		}
		s.acked = max(s.acked, rev)
		for len(s.inFlight) > 0 && s.inFlight[0].revision <= rev {
			fl := s.inFlight[0]
			s.inFlight = s.inFlight[1:]
			s.unacked -= fl.bytes
			if !fl.committed.IsZero() {
				a.Acked = append(a.Acked, fl.committed)
			}
		}
	case *kdsv1.Frame_Nack:
		a.Rejected = s.reject(m.Nack.GetRejections())
	case *kdsv1.Frame_Digest:
		if s.lastDigest == nil || m.Digest.GetRevision() != s.lastDigest.GetRevision() {
			break
		}
		if s.lastSummary {
			// A summary does not say which kinds differ; the digest of all does, and counts.
			own := summarize(s.lastDigest)
			s.equal = m.Digest.Summary != nil && m.Digest.GetSummary() == own.GetSummary()
			s.digestDue = s.digestDue || !s.equal
			break
		}
		a.Mismatch = differing(s.lastDigest, m.Digest)
		s.equal = len(a.Mismatch) == 0
		if !s.equal {
			s.stats.Mismatches++
		}
	case *kdsv1.Frame_ResetKind:
		kind := mesh.Kind(m.ResetKind.GetKind())
		if _, ok := mesh.Lookup(kind); ok && (s.cfg.View.Withheld == nil || !s.cfg.View.Withheld(kind)) {
			s.complete[kind] = true
		}
	default:
		return a, fmt.Errorf("unexpected %T from a receiver", m)
	}
	return a, nil
}

// reject keeps rejections of what the other side was sent, and returns the new ones.
func (s *Source) reject(rejections []*meshv1.Rejection) (kept []*meshv1.Rejection) {
	for _, r := range rejections {
		key := mesh.KeyFromProto(r.GetCause())
		_, stands := s.rejections[key]
		if !s.remote.has(key) || (!stands && len(s.rejections) >= MaxRejections) {
			continue
		}
		r = cutRejection(r)
		s.rejections[key] = r
		kept = append(kept, r)
	}
	return kept
}

// CheckDigest makes the next idle moment send a digest of every kind.
func (s *Source) CheckDigest() { s.digestDue = s.comparable() }

// CheckSummary makes the next idle moment send one digest of everything, which is followed by those
// of every kind if it differs. Hosts call it some time after changes.
func (s *Source) CheckSummary() { s.summaryDue = s.comparable() }

func (s *Source) comparable() bool { return s.state != nil && s.resetReason == 0 && !s.sending }

// Announce makes the next idle moment send a Bookmark, if there is something to tell; see
// [SourceConfig.LazyBookmarks].
func (s *Source) Announce() { s.announce = s.Revision() > s.sent }

// Settled is the revision that the other side must have to have all there is for it up to
// [Source.Revision]. It is false while something has yet to be sent.
func (s *Source) Settled() (revision uint64, ok bool) {
	return s.sent, s.comparable() && len(s.pending) == 0 && len(s.complete) == 0
}

// StoreID is the epoch of the Source's store.
func (s *Source) StoreID() string { return s.cfg.StoreID }

// Sent and Acked are revisions of the Source's store.
func (s *Source) Sent() uint64 { return s.sent }

// Acked is the revision that is durable at the other side.
func (s *Source) Acked() uint64 { return s.acked }

// Revision up to which changes were read.
func (s *Source) Revision() uint64 {
	if s.state == nil {
		return 0
	}
	return s.state.Revision()
}

// Equal is the outcome of the last comparison of digests; true before the first.
func (s *Source) Equal() bool { return s.equal }

// Unacked is the number of bytes in inFlightFrame; Pending the number of keys that wait.
func (s *Source) Unacked() int { return s.unacked }

// Pending is the number of keys that wait to be sent.
func (s *Source) Pending() int { return len(s.pending) }

// Oldest is the commit time of the oldest unacked change; zero if there is none.
func (s *Source) Oldest() time.Time {
	for _, f := range s.inFlight {
		if !f.committed.IsZero() {
			return f.committed
		}
	}
	return s.oldest
}

// Stats returns a copy of the counts.
func (s *Source) Stats() SourceStats {
	c := s.stats
	c.Resets = make(map[string]uint64, len(s.stats.Resets))
	for k, v := range s.stats.Resets {
		c.Resets[k] = v
	}
	return c
}

// Rejections that still stand, in the order of keys.
func (s *Source) Rejections() []*meshv1.Rejection { return sortedRejections(s.rejections) }

func sortedRejections(m map[mesh.Key]*meshv1.Rejection) []*meshv1.Rejection {
	keys := make([]mesh.Key, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].Compare(keys[j]) < 0 })
	out := make([]*meshv1.Rejection, len(keys))
	for i, k := range keys {
		out[i] = m[k]
	}
	return out
}
