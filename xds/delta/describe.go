package delta

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
)

// SyncStatus says whether a stream's client has what it should have of one resource.
type SyncStatus uint8

// Sync states of a resource.
const (
	// InSync: the client has acknowledged what it should have.
	InSync SyncStatus = iota
	// Pending: it has not been sent yet, as other answers come first.
	Pending
	// Sent: it is on its way, or the client has not answered.
	Sent
	// Rejected: the client rejected what it should have, and goes on with what it has.
	Rejected
	// NotSubscribed: the client has not asked for it.
	NotSubscribed
)

var syncStatusNames = [...]string{"in sync", "pending", "sent", "rejected", "not subscribed"}

// String is "in sync", "pending", "sent", "rejected" or "not subscribed".
func (s SyncStatus) String() string { return syncStatusNames[s] }

// ResourceView is one resource of a stream.
type ResourceView struct {
	Type Type
	Name string
	// Acked is the version that the client is known to have; empty if it has none, or was told to forget it.
	Acked string
	// Desired is what it should have; nil if nothing.
	Desired *Resource
	Status  SyncStatus
	// Reason of a rejection.
	Reason string
}

// StreamView is one stream of a proxy at a moment.
type StreamView struct {
	Join Join
	// Since is when it was admitted.
	Since time.Time
	// Watch is the Source's; nil while the stream waits until others have had their first configuration.
	Watch Watch
	// Resources that the client has or should have, by type and name.
	Resources []ResourceView
}

// registry holds the streams that can be looked at, by proxy.
type registry struct {
	mu sync.Mutex
	of map[mesh.Key]map[*stream]struct{} // guarded by mu
}

func (w *registry) add(key mesh.Key, st *stream) (remove func()) {
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

// Describe shows the streams of a proxy, oldest first. Each is as it was at one moment,
// not all at the same.
func (s *Server) Describe(proxy mesh.Key) []StreamView {
	s.inspected.mu.Lock()
	streams := slices.Collect(maps.Keys(s.inspected.of[proxy]))
	s.inspected.mu.Unlock()
	var out []StreamView
	for _, st := range streams {
		st.mu.Lock()
		if !st.closed {
			v := StreamView{Join: st.join, Since: st.since, Watch: st.watch}
			if st.watch != nil {
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
	s.leavePlan() // which says the same by resource
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
			it, _ := ts.items.get(name)
			has := it.held
			if it.inFlight != nil {
				has = before[name]
			}
			v := ResourceView{Type: t, Name: name, Desired: should}
			if has != nil && has != absent {
				v.Acked = has.Version
			}
			_, up := ts.pendingUpserts[name]
			_, down := ts.pendingRemovals[name]
			no, rejected := ts.rejected[name]
			switch {
			case it.inFlight != nil:
				v.Status = Sent
			case up || down:
				v.Status = Pending
			case rejected:
				v.Status, v.Reason = Rejected, no.Reason
			case !ts.wildcard && !it.named:
				v.Status = NotSubscribed
			case should == nil && v.Acked == "":
				return // it was told that there is none
			}
			out = append(out, v)
		}
		for r := range s.desired.All(t) {
			one(r.Name, r)
		}
		for name := range ts.items.all() {
			if s.desired.Lookup(t, name) == nil {
				one(name, nil)
			}
		}
	}
	slices.SortFunc(out, func(a, b ResourceView) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
	})
	return out
}
