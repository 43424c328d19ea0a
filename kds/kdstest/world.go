package kdstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Node is a control plane: a store, and what is remembered of it to check promises.
type Node struct {
	Name  string // "global" or the zone's
	Store store.Store
	// history holds the state at every revision.
	history map[uint64]replica.View
	// Refuse lists resource names that this node's Sinks reject.
	Refuse map[string]bool
	// tampered suspends the promise of atomicity: copies were changed behind a Sink's back.
	tampered bool
}

// View is the node's state now.
func (n *Node) View() replica.View { return n.history[n.revision()] }

func (n *Node) revision() uint64 {
	r, err := n.Store.Revision(context.Background())
	if err != nil {
		panic(err)
	}
	return r
}

// Wire is one stream between global and a zone, in one direction.
type Wire struct {
	Direction kds.Direction
	Zone      string
	from, to  *Node

	// These are nil or empty while the wire is cut.
	source     *kds.Source
	sink       *kds.Sink
	sourceAt   uint64 // revision of from that the Source has read
	forth      []*kdsv1.Frame
	back       []*kdsv1.Frame
	storeID    string // of from, when connected
	lastResume uint64
}

// Connected says that the wire is up.
func (w *Wire) Connected() bool { return w.source != nil }

func (w *Wire) String() string {
	if w.Direction == kds.Down {
		return "global->" + w.Zone
	}
	return w.Zone + "->global"
}

// Config of a World.
type Config struct {
	Zones []string
	// Window and Chunk of Sources, 0 for the defaults.
	Window, Chunk int
	// Slow Sources are asked for a frame only when the wire is empty, so that changes arrive amid a
	// snapshot and merge.
	Slow bool
	// Lazy Sources send bookmarks only after [World.Announce].
	Lazy bool
	// Trace receives what happens; nil for nothing.
	Trace io.Writer
}

// World is one global and its zones.
type World struct {
	cfg    Config
	Global *Node
	Zones  map[string]*Node
	wires  []*Wire
	// ours are the schemas of this program, and schemas those of zones that have others.
	ours    []*kdsv1.KindSchema
	schemas map[string][]*kdsv1.KindSchema
}

// New makes a World in which nothing is connected.
func New(cfg Config) *World {
	w := &World{
		cfg:     cfg,
		Global:  newNode("global"),
		Zones:   map[string]*Node{},
		ours:    kds.Schemas(),
		schemas: map[string][]*kdsv1.KindSchema{},
	}
	for _, z := range cfg.Zones {
		n := newNode(z)
		w.Zones[z] = n
		w.wires = append(w.wires, &Wire{
			Direction: kds.Down,
			Zone:      z,
			from:      w.Global,
			to:        n,
		}, &Wire{
			Direction: kds.Up,
			Zone:      z,
			from:      n,
			to:        w.Global,
		})
	}
	return w
}

// Close closes the stores.
func (w *World) Close() {
	for _, n := range w.nodes() {
		_ = n.Store.Close()
	}
}

func (w *World) nodes() []*Node {
	out := []*Node{w.Global}
	for _, z := range w.cfg.Zones {
		out = append(out, w.Zones[z])
	}
	return out
}

func newNode(name string) *Node {
	n := &Node{Name: name, Refuse: map[string]bool{}}
	n.renew()
	return n
}

func (n *Node) renew() {
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		panic(err)
	}
	n.Store, n.history = st, map[uint64]replica.View{0: replica.NewView(0)}
}

func (w *World) trace(format string, args ...any) {
	if w.cfg.Trace != nil {
		fmt.Fprintf(w.cfg.Trace, format+"\n", args...)
	}
}

// Wire finds a zone's wire.
func (w *World) Wire(zone string, d kds.Direction) *Wire {
	for _, x := range w.wires {
		if x.Zone == zone && x.Direction == d {
			return x
		}
	}
	panic("kdstest: no zone " + zone)
}

// Wires lists all wires.
func (w *World) Wires() []*Wire { return w.wires }

// Commit writes to a node and lets its connected Sources send.
func (w *World) Commit(n *Node, ops ...store.Op) error {
	if err := n.commit(store.Txn{Author: "test", Ops: ops}); err != nil {
		return err
	}
	return w.push(n)
}

func (n *Node) commit(txn store.Txn) error {
	before := n.revision()
	res, err := n.Store.Commit(context.Background(), txn)
	if err != nil {
		return err
	}
	if res.Revision != before {
		snap, err := n.Store.Snapshot(context.Background())
		if err != nil {
			return err
		}
		n.history[snap.Revision] = replica.NewView(snap.Revision, snap.Resources...)
	}
	return nil
}

// push lets the Sources on n read what is new, commit by commit, and send.
func (w *World) push(n *Node) error {
	for _, x := range w.wires {
		if x.from != n || !x.Connected() {
			continue
		}
		for at := x.sourceAt + 1; at <= n.revision(); at++ {
			changes, err := n.changes(at-1, at)
			if err != nil {
				return err
			}
			x.source.Advance(n.history[at], changes, time.Unix(int64(at), 0).UTC())
			x.sourceAt = at
			if err := w.send(x); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Node) changes(after, through uint64) ([]store.Change, error) {
	watch, err := n.Store.Watch(context.Background(), after)
	if err != nil {
		return nil, err
	}
	defer watch.Close()
	var out []store.Change
	for after < through {
		c, err := watch.Next(context.Background())
		if err != nil {
			return nil, err
		}
		out = append(out, c.Changes...)
		after = c.Revision
	}
	return out, nil
}

func (w *World) send(x *Wire) error {
	if w.cfg.Slow {
		return nil
	}
	return w.pull(x, -1)
}

// pull takes up to n frames from a Source; all that it has if n is negative.
func (w *World) pull(x *Wire, n int) error {
	for ; n != 0; n-- {
		before := x.source.Unacked()
		f, err := x.source.Next()
		if err != nil {
			return err
		}
		if f == nil {
			return nil
		}
		if d := f.GetDelta(); d != nil && before >= w.window() {
			return fmt.Errorf("promise bounded: %s sent a delta with %d bytes unacked", x, before)
		}
		if x.source.Pending() > x.from.View().Len()+1000 {
			return fmt.Errorf("promise bounded: %s has %d keys pending", x, x.source.Pending())
		}
		w.trace("%s sends %s", x, Describe(f))
		x.forth = append(x.forth, f)
	}
	return nil
}

func (w *World) window() int {
	if w.cfg.Window != 0 {
		return w.cfg.Window
	}
	return kds.DefaultWindow
}

// Connect brings up a wire with a fresh Source and Sink, as after a handshake.
func (w *World) Connect(x *Wire) error {
	if x.Connected() {
		return nil
	}
	agreed := w.agreed(x)
	name := kds.ConfigCursor
	if x.Direction == kds.Up {
		name = kds.StateCursor(x.Zone)
	}
	stored, err := x.to.Store.Meta(context.Background(), name)
	if err != nil {
		return err
	}
	kept, err := x.to.Store.Meta(context.Background(), kds.StateKept(x.Zone))
	if err != nil {
		return err
	}
	sink, err := kds.NewSink(kds.SinkConfig{
		Direction: x.Direction,
		Zone:      x.Zone,
		Author:    x.String(),
		Validate:  x.to.validate,
		Kept:      kept,
	}, stored, x.to.View().All())
	if err != nil {
		return err
	}
	sink.Agreed(agreed)
	cfg := kds.SourceConfig{
		StoreID: x.from.Store.ID(),
		Schema:  agreed.Schema,
		Window:  w.cfg.Window,
		Chunk:   w.cfg.Chunk,
		View:    w.view(x, agreed),

		LazyBookmarks: w.cfg.Lazy,
	}
	src := kds.NewSource(cfg)
	at := x.from.revision()
	cursor := sink.Cursor()
	reason, ok := cfg.Resumable(cursor)
	if ok {
		changes, err := x.from.changes(cursor.GetRevision(), at)
		var invalid *store.InvalidError
		switch {
		case errors.Is(err, store.ErrCompacted):
			reason = kds.ResetCompacted
		case errors.As(err, &invalid):
			reason = kds.ResetStore
		case err != nil:
			return err
		default:
			src.Resume(x.from.View(), cursor.GetRevision(), changes, time.Unix(int64(at), 0).UTC())
		}
	}
	if reason != kds.NoReset {
		src.Reset(x.from.View(), reason)
		w.trace("%s connects", x)
	} else {
		w.trace("%s connects, resumes after %d", x, cursor.GetRevision())
	}
	for _, d := range agreed.Degraded {
		w.trace("%s withholds %s", x, d.GetKind())
	}
	x.source, x.sink, x.sourceAt, x.storeID, x.lastResume = src, sink, at, x.from.Store.ID(),
		cursor.GetRevision()
	return w.send(x)
}

func (w *World) agreed(x *Wire) kds.Agreement {
	if schemas := w.schemas[x.Zone]; schemas != nil {
		return kds.Agree(w.ours, schemas)
	}
	return kds.Agree(w.ours, w.ours)
}

func (w *World) view(x *Wire, a kds.Agreement) *kds.View {
	return &kds.View{Direction: x.Direction, Zone: x.Zone, Withheld: a.Withheld}
}

func (n *Node) validate(r *mesh.Resource) error {
	if !n.Refuse[r.Key.Name] {
		return nil
	}
	e := &mesh.ValidationError{}
	e.Add("spec", "%s does not want it", n.Name)
	return e
}

// Cut ends a wire: frames on it are lost, and so is all that Source and Sink had in memory.
func (w *World) Cut(x *Wire) {
	if x.Connected() {
		w.trace("%s is cut, %d frames lost", x, len(x.forth)+len(x.back))
	}
	x.source, x.sink, x.forth, x.back = nil, nil, nil, nil
}

// Restart ends all wires of a node. Its store stays.
func (w *World) Restart(n *Node) {
	for _, x := range w.wires {
		if x.from == n || x.to == n {
			w.Cut(x)
		}
	}
}

// Recreate gives a node another store with the resources that it owns, as a restored backup would.
func (w *World) Recreate(n *Node) error {
	w.Restart(n)
	old := n.View()
	_ = n.Store.Close()
	n.renew()
	own := ""
	if n != w.Global {
		own = n.Name
	}
	for r := range old.All() {
		if r.Key.Zone != own {
			continue
		}
		if err := n.commit(store.Txn{
			Author: "restore",
			Ops:    []store.Op{store.Put{Resource: r.Clone()}},
		}); err != nil {
			return err
		}
		if info, _ := mesh.Lookup(r.Key.Kind); info.NewStatus != nil && r.Status != nil {
			if err := n.commit(store.Txn{
				Author: "restore",
				Ops:    []store.Op{store.PutStatus{Key: r.Key, Status: r.Status}},
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Deliver hands one frame of a wire to its receiver; forth says which way. It reports whether there was one.
func (w *World) Deliver(x *Wire, forth bool) (bool, error) {
	if forth {
		if len(x.forth) == 0 && w.cfg.Slow && x.Connected() {
			if err := w.pull(x, 1); err != nil {
				return false, err
			}
		}
		if len(x.forth) == 0 {
			return false, nil
		}
		f := x.forth[0]
		x.forth = x.forth[1:]
		return true, w.receive(x, f)
	}
	if len(x.back) == 0 {
		return false, nil
	}
	f := x.back[0]
	x.back = x.back[1:]
	if _, err := x.source.Recv(f); err != nil {
		return true, fmt.Errorf("%s: %w", x, err)
	}
	return true, w.send(x)
}

func (w *World) receive(x *Wire, f *kdsv1.Frame) error {
	if err := w.unique(x, f); err != nil {
		return err
	}
	before, beforeID := x.sink.Revision(), x.sink.Cursor().GetStoreId()
	if err := x.sink.Recv(f); err != nil {
		return fmt.Errorf("%s: %w", x, err)
	}
	for {
		a, ok := x.sink.Next()
		if !ok {
			break
		}
		w.trace("%s applies %d: %s", x, a.Revision, operations(a.Txn))
		if err := x.to.commit(a.Txn); err != nil {
			return fmt.Errorf("%s: commit: %w", x, err)
		}
		if err := x.sink.Applied(); err != nil {
			return fmt.Errorf("%s: %w", x, err)
		}
	}
	if beforeID == x.sink.Cursor().GetStoreId() && x.sink.Revision() < before {
		return fmt.Errorf("promise ordered: %s went from revision %d back to %d", x, before,
			x.sink.Revision())
	}
	for _, f := range x.sink.Frames() {
		w.trace("%s answers %s", x, Describe(f))
		x.back = append(x.back, f)
	}
	if err := w.atomic(x); err != nil {
		return err
	}
	return w.push(x.to)
}

// Stabilize connects nothing; it delivers until nothing moves.
func (w *World) Stabilize() error {
	for moved := true; moved; {
		moved = false
		for _, x := range w.wires {
			for _, forth := range []bool{true, false} {
				ok, err := w.Deliver(x, forth)
				if err != nil {
					return err
				}
				moved = moved || ok
			}
		}
	}
	return nil
}

// CheckDigests makes every connected Source send digests of every kind.
func (w *World) CheckDigests() error { return w.ask((*kds.Source).CheckDigest) }

// CheckSummaries makes every connected Source send one digest of everything.
func (w *World) CheckSummaries() error { return w.ask((*kds.Source).CheckSummary) }

// Announce makes every connected Source send a bookmark, if there is something to tell.
func (w *World) Announce() error { return w.ask((*kds.Source).Announce) }

func (w *World) ask(what func(*kds.Source)) error {
	for _, x := range w.wires {
		if x.Connected() {
			what(x.source)
			if err := w.send(x); err != nil {
				return err
			}
		}
	}
	return nil
}

// Mismatches counts kinds that Sinks found to differ.
func (w *World) Mismatches() (n uint64) {
	for _, x := range w.wires {
		if x.sink != nil {
			n += x.sink.Mismatches()
		}
	}
	return n
}
