package xds

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/ir"
	"github.com/meridian-mesh/meridian/xds/translate"
)

func encode(t delta.Type, name string, m proto.Message, err error, cause []mesh.Key) (*delta.Resource, error) {
	if err != nil {
		return nil, err
	}
	body, err := translate.Encode(m)
	if err != nil {
		return nil, err
	}
	return delta.NewResource(t, name, body, cause...), nil
}

func encodeCluster(c ir.Cluster, cause ...mesh.Key) (*delta.Resource, error) {
	m, err := translate.Cluster(c)
	return encode(delta.TypeCluster, c.Name, m, err, cause)
}

func encodeEndpoints(e ir.Endpoints, cause ...mesh.Key) (*delta.Resource, error) {
	return encode(delta.TypeEndpoint, e.Cluster, translate.Endpoints(e), nil, cause)
}

func encodeListener(l ir.Listener, cause ...mesh.Key) (*delta.Resource, error) {
	m, err := translate.Listener(l)
	return encode(delta.TypeListener, l.Name, m, err, cause)
}

func encodeRoutes(c ir.RouteConfig, cause ...mesh.Key) (*delta.Resource, error) {
	m, err := translate.RouteConfig(c)
	return encode(delta.TypeRoute, c.Name, m, err, cause)
}

func encodeSecret(s ir.Secret, cause ...mesh.Key) (*delta.Resource, error) {
	return encode(delta.TypeSecret, s.Name, translate.Secret(s), nil, cause)
}

// sameResource says that nobody needs to hear of the difference: equal bytes keep the old pointer.
func sameResource(a, b *delta.Resource) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.Version == b.Version && a.Name == b.Name && a.Type == b.Type && slices.Equal(a.Cause, b.Cause)
}

// segment is a set of resources as a list, to compare by pointer, and as the server wants it.
type segment struct {
	list []*delta.Resource
	set  *delta.Segment
}

func (s *segment) equal(o *segment) bool {
	if s == nil || o == nil {
		return s == o
	}
	return slices.Equal(s.list, o.list)
}

// keepSegment keeps the old segment if its resources are the same, and within a new one the old pointers of resources
// that did not change.
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

// newSegment is a segment whose set [keepSegment] makes.
func newSegment(list []*delta.Resource) *segment {
	return &segment{list: slices.DeleteFunc(list, func(r *delta.Resource) bool { return r == nil })}
}
