package delta

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
)

// Standing is how a stream's client stands to one resource.
type Standing uint8

// Standings of a resource.
const (
	// InSync: the client has acknowledged what it should have.
	InSync Standing = iota
	// Waiting: it has not been sent yet, as other answers come first.
	Waiting
	// Sent: it is on its way, or the client has not answered.
	Sent
	// Refused: the client refused what it should have, and goes on with what it has.
	Refused
	// NotAsked: the client has not asked for it.
	NotAsked
)

var standingNames = [...]string{"in sync", "waiting", "sent", "refused", "not asked for"}

// String is "in sync", "waiting", "sent", "refused" or "not asked for".
func (s Standing) String() string { return standingNames[s] }

// ResourceView is one resource of a stream.
type ResourceView struct {
	Type Type
	Name string
	// Has is the version that the client is known to have; empty if it has none, or was told to forget it.
	Has string
	// Should is what it should have; nil if nothing.
	Should   *Resource
	Standing Standing
	// Reason of a refusal.
	Reason string
}

// StreamView is one stream of a proxy at a moment.
type StreamView struct {
	Join Join
	// Since is when it was admitted.
	Since time.Time
	// Feed is the Source's; nil while the stream waits until others have had their first configuration.
	Feed Feed
	// Resources that the client has or should have, by type and name.
	Resources []ResourceView
}

// watched are the streams that can be looked at, by proxy.
type watched struct {
	mu sync.Mutex
	of map[mesh.Key]map[*stream]struct{} // guarded by mu
}

func (w *watched) add(key mesh.Key, st *stream) (remove func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[key] == nil {
		w.of[key] = map[*stream]struct{}{}
	}
	w.of[key][st] = struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.of[key], st); len(w.of[key]) == 0 {
			delete(w.of, key)
		}
	}
}

// Look shows the streams of a proxy, in the order of their coming. Each is as it was at one moment,
// not all at the same.
func (s *Server) Look(proxy mesh.Key) []StreamView {
	s.watched.mu.Lock()
	streams := slices.Collect(maps.Keys(s.watched.of[proxy]))
	s.watched.mu.Unlock()
	var out []StreamView
	for _, st := range streams {
		st.mu.Lock()
		if !st.closed {
			v := StreamView{Join: st.join, Since: st.since, Feed: st.feed}
			if st.feed != nil {
				v.Resources = st.state.view()
			}
			out = append(out, v)
		}
		st.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b StreamView) int { return a.Since.Compare(b.Since) })
	return out
}

// view is the state by resource.
func (s *state) view() []ResourceView {
	var out []ResourceView
	for t := range numTypes {
		ts := &s.types[t]
		// What the client goes on with while an answer is out; of what is taken away it is not
		// known any more.
		before := map[string]*Resource{}
		for _, r := range ts.open {
			for i, res := range r.resources {
				before[res.Name] = r.before[i]
			}
		}
		one := func(name string, should *Resource) {
			it := ts.items[name]
			has := it.held
			if it.flight != nil {
				has = before[name]
			}
			v := ResourceView{Type: t, Name: name, Should: should}
			if has != nil && has != absent {
				v.Has = has.Version
			}
			_, up := ts.up[name]
			_, down := ts.down[name]
			no, refused := ts.refused[name]
			switch {
			case it.flight != nil:
				v.Standing = Sent
			case up || down:
				v.Standing = Waiting
			case refused:
				v.Standing, v.Reason = Refused, no.Reason
			case !ts.wildcard && !it.named:
				v.Standing = NotAsked
			case should == nil && v.Has == "":
				return // it was told that there is none
			}
			out = append(out, v)
		}
		for r := range s.want.All(t) {
			one(r.Name, r)
		}
		for name := range ts.items {
			if s.want.Lookup(t, name) == nil {
				one(name, nil)
			}
		}
	}
	slices.SortFunc(out, func(a, b ResourceView) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
	})
	return out
}
