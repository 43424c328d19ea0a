package xds

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// connectionsOf is where a MeshTCPRoute sends the connections to a destination's port.
type connectionsOf struct {
	// backends share the connections, none closes them; the zero value if no MeshTCPRoute takes them.
	backends ir.Shared[[]ir.Backend]
	extra    []compile.Ref
	// conf and causes are those of the listener.
	conf   ir.ListenerPolicy
	causes keyList
}

func (c *connectionsOf) equal(o *connectionsOf) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.backends == o.backends && slices.Equal(c.extra, o.extra) && c.conf == o.conf &&
		c.causes == o.causes
}

// hasTCPRoutes says that a list of policies has a MeshTCPRoute. Most have none, and then
// connections are not looked at.
func hasTCPRoutes(l keyList) bool {
	return slices.ContainsFunc(l.Slice(),
		func(k mesh.Key) bool { return k.Kind == mesh.KindMeshTCPRoute })
}

func (q *queries) computeConnections(r *graph.Reader, k inSet) (*connectionsOf, error) {
	d := q.destination(r, k.ref.Key)
	p, ok := d.Port(k.ref.Section)
	if !ok {
		return &connectionsOf{}, nil
	}
	dest := policy.Destination{Key: d.Key, Labels: d.Labels, Section: k.ref.Section}
	of := func(kind mesh.Kind) []*mesh.Resource {
		return q.policiesAbout(r, k.set, d.Key, func(k mesh.Kind) bool { return k == kind })
	}
	rule, ok := policy.TCPRoute(of(mesh.KindMeshTCPRoute), dest)
	http := p.Protocol.IsHTTP() && len(policy.HTTPRoutes(of(mesh.KindMeshHTTPRoute), dest)) > 0
	if !compile.TCPTakes(p, ok, http) {
		return &connectionsOf{}, nil
	}
	backends, extra := compile.TCPBackends(k.ref, rule,
		func(ref *meshv1.BackendRef, owner mesh.Key) (compile.Ref, bool) {
			found, _, ok := q.backend(r, ref, owner, p)
			return found, ok
		})
	// The listener of a port of HTTP is one of TCP now.
	if p.Protocol.IsHTTP() {
		p.Protocol = ir.TCP
	}
	about := q.policiesAbout(r, k.set, d.Key, compile.IsOutboundConfig)
	conf, why := compile.NewOutboundConfig(about, dest, p)
	keys := append(why.Listener, rule.Policy.Key)
	slices.SortFunc(keys, mesh.Key.Compare)
	return &connectionsOf{
		backends: ir.Share(backends),
		extra:    extra,
		conf:     conf.Listener,
		causes:   internKeys(slices.Compact(keys)),
	}, nil
}
