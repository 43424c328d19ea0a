package xds

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/internal/intern"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/ir"
	"github.com/meridian-mesh/meridian/xds/translate"
)

// pool keeps one copy of equal resources: what differs between groups of proxies in its inputs
// alone, as the routes of a destination to which their policies say the same, is one resource for
// all of them. It holds them weakly.
type pool struct {
	resources intern.Pool[resourceKey, delta.Resource]
	// replaced are contents that proxies rejected, and what they get instead; see lastgood.go.
	replaced map[contentKey]*delta.Resource
}

type resourceKey struct {
	typ           delta.Type
	name, version string
	causes        keyList
}

func (p *pool) encode(t delta.Type, name string, m proto.Message, err error,
	cause []mesh.Key) (*delta.Resource, error) {
	if err != nil {
		return nil, err
	}
	body, err := translate.Encode(m)
	if err != nil {
		return nil, err
	}
	r := delta.NewResource(t, name, body, cause...)
	if by := p.replaced[contentKey{t, name, r.Version}]; by != nil {
		return by, nil
	}
	return p.resources.Get(resourceKey{t, name, r.Version, internKeys(cause)}, r), nil
}

func (p *pool) cluster(c ir.Cluster, cause ...mesh.Key) (*delta.Resource, error) {
	m, err := translate.Cluster(c)
	return p.encode(delta.TypeCluster, c.Name, m, err, cause)
}

func (p *pool) endpoints(e ir.Endpoints, cause ...mesh.Key) (*delta.Resource, error) {
	return p.encode(delta.TypeEndpoint, e.Cluster, translate.Endpoints(e), nil, cause)
}

func (p *pool) listener(l ir.Listener, cause ...mesh.Key) (*delta.Resource, error) {
	m, err := translate.Listener(l)
	return p.encode(delta.TypeListener, l.Name, m, err, cause)
}

func (p *pool) routes(c ir.RouteConfig, cause ...mesh.Key) (*delta.Resource, error) {
	m, err := translate.RouteConfig(c)
	return p.encode(delta.TypeRoute, c.Name, m, err, cause)
}

func (p *pool) secret(s ir.Secret, cause ...mesh.Key) (*delta.Resource, error) {
	return p.encode(delta.TypeSecret, s.Name, translate.Secret(s), nil, cause)
}

// sameResource says that the difference does not matter: equal bytes keep the old pointer.
func sameResource(a, b *delta.Resource) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.Version == b.Version && a.Name == b.Name && a.Type == b.Type &&
		a.Former == b.Former && slices.Equal(a.Cause, b.Cause)
}

// segment is a set of resources as a list, to compare by pointer, and as the server subscriptions it.
type segment struct {
	list []*delta.Resource
	set  *delta.Segment
	// lacks are resources that could not be made. A proxy that has them keeps them.
	lacks []lack
}

type lack struct {
	typ  delta.Type
	name string
}

func (s *segment) equal(o *segment) bool {
	if s == nil || o == nil {
		return s == o
	}
	return slices.Equal(s.list, o.list) && slices.Equal(s.lacks, o.lacks)
}

// keepSegment keeps the old segment if its resources are the same, and within a new one the old
// pointers of resources that did not change.
func keepSegment(old, now *segment) (*segment, bool) {
	if now == nil {
		return nil, old != nil
	}
	if old == nil {
		now.set = delta.NewSegment(now.list)
		return now, true
	}
	for i, r := range now.list {
		if was := old.set.Lookup(r.Type, r.Name); was != nil && was != r && sameResource(was, r) {
			now.list[i] = was
		}
	}
	if old.equal(now) {
		return old, false
	}
	now.set = delta.NewSegment(now.list)
	return now, true
}

// keepLacking gives a table the resources that it lacks as the last one had them. everything says
// that what would say which these are is itself lacking.
func keepLacking(t, last *delta.Table, lacks []lack, everything bool) {
	var list []*delta.Resource
	keep := func(r *delta.Resource) {
		if r != nil && t.Lookup(r.Type, r.Name) == nil {
			list = append(list, r)
		}
	}
	for _, l := range lacks {
		keep(last.Lookup(l.typ, l.name))
	}
	if everything {
		for _, typ := range delta.Types {
			for r := range last.All(typ) {
				keep(r)
			}
		}
	}
	if len(list) == 0 {
		return
	}
	kept := delta.NewSegment(list)
	for _, s := range last.Segments {
		if s.Len() == kept.Len() &&
			!slices.ContainsFunc(list,
				func(r *delta.Resource) bool { return s.Lookup(r.Type, r.Name) != r }) {
			kept = s // the same as last time
		}
	}
	t.Segments = append(t.Segments, kept)
}

// newSegment is a segment whose set [keepSegment] makes.
func newSegment(list []*delta.Resource) *segment {
	return &segment{list: slices.DeleteFunc(list, func(r *delta.Resource) bool { return r == nil })}
}
