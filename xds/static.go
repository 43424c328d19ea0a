package xds

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
)

// Static is the engine over one view at a time, without streams: what would proxies have if the
// store held this? It serves questions (what a proxy has and why, what a change would do), not
// proxies. No certificate is known to it, so tables lack them. It is for one goroutine at a
// time.
type Static struct {
	e       *Engine
	watched map[mesh.Key]*graph.Cell[*delta.Table]
}

// NewStatic computes nothing yet but the indexes of the view.
func NewStatic(zone string, view replica.View) *Static {
	s := &Static{e: newEngine(zone), watched: map[mesh.Key]*graph.Cell[*delta.Table]{}}
	s.e.g.Begin()
	s.e.s.apply(view, difference(replica.View{}, view))
	return s
}

// Table is what a Dataplane or ZoneIngress of this zone should have, nil if there is none of that
// name; from then on it is followed by [Static.Apply]. The errors are of what could not be computed
// for any proxy that is followed: such parts are left out.
func (s *Static) Table(proxy mesh.Key) (*delta.Table, []error) {
	m := s.watched[proxy]
	if m == nil {
		m = s.e.q.table.Pin(caller{proxy: proxy})
		s.watched[proxy] = m
	}
	return m.Get(), s.Failures()
}

// Apply moves on to another view, of which changes are all that differs, and returns the followed
// proxies whose table is another now, in no order.
func (s *Static) Apply(view replica.View, changes []store.Change) []mesh.Key {
	s.e.g.Begin()
	s.e.s.apply(view, changes)
	s.e.g.Recompute()
	var out []mesh.Key
	for k, m := range s.watched {
		if m.Changed() == s.e.g.Batch() {
			out = append(out, k)
		}
	}
	return out
}

// Failures are what could not be computed for any proxy that is followed, in no order.
func (s *Static) Failures() []error {
	var out []error
	for n := range s.e.g.Failed() {
		out = append(out, fmt.Errorf("%s %s: %w", n.Query(), n.Key(), n.Err()))
	}
	return out
}
