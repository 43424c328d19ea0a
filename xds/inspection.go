package xds

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/selector"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Inspection is what a proxy is made of, before it becomes Envoy's messages: the policies that
// select it and what they come to, by the very queries that its configuration comes from. Resources
// in it are shared; do not change them.
type Inspection struct {
	// Proxy is the Dataplane.
	Proxy *mesh.Resource
	// MTLS is "", "PERMISSIVE" or "STRICT".
	MTLS string
	// To are the policies about calls that the proxy makes, of all kinds, by ascending priority.
	To        []*mesh.Resource
	Outbounds []InspectedOutbound
	Inbounds  []InspectedInbound
}

// InspectedOutbound is a destination's port as the proxy calls it.
type InspectedOutbound struct {
	compile.Outbound
	Port compile.Port
	// About is what entries of "to" are compared with.
	About policy.Destination
	Conf  compile.OutboundConfig
	// Routes of requests, in the order in which they are tried; empty for connections.
	Routes []ir.Route
	// Rules are the MeshHTTPRoutes behind Routes, in their order before sorting.
	Rules []policy.HTTPRule
	// Connections are the backends of a MeshTCPRoute; empty if none takes the connections.
	Connections []ir.Backend
	// Clusters are the destinations that requests or connections can end at, by the name that backends have.
	Clusters map[string]InspectedCluster
}

// InspectedCluster is a destination's port with where its instances are.
type InspectedCluster struct {
	Ref       compile.Ref
	Port      compile.Port
	Conf      compile.OutboundConfig
	Endpoints []ir.Endpoint
	// TLS says that the proxy speaks mesh mTLS to it.
	TLS bool
}

// InspectedInbound is a port of the proxy's workload.
type InspectedInbound struct {
	Section  string
	Inbound  *meshv1.Dataplane_Inbound
	Protocol ir.Protocol
	// Policies about those who call it, of all kinds, by ascending priority.
	Policies []*mesh.Resource
	Conf     *compile.InboundConfig
}

// Inspect looks into a Dataplane; nil if there is none of that name. The error is of the first part
// that could not be computed.
func (s *Static) Inspect(proxy mesh.Key) (*Inspection, error) {
	q := s.e.q
	dp, ok := s.e.s.view.Get(proxy)
	if !ok || proxy.Kind != mesh.KindDataplane {
		return nil, nil
	}
	out := &Inspection{Proxy: dp}
	if err := s.ask(proxy, func(r *graph.Reader) { q.inspect(r, proxy, out) }); err != nil {
		return nil, err
	}
	return out, nil
}

// ask runs fn as a query that is not kept.
func (s *Static) ask(about mesh.Key, fn func(r *graph.Reader)) error {
	return s.e.g.Ask("inspection", about, func(r *graph.Reader) error {
		fn(r)
		return nil
	})
}

func (q *queries) inspect(r *graph.Reader, k mesh.Key, out *Inspection) {
	out.MTLS = q.mesh.Get(r, meshName(k.Mesh)).MTLS
	m := q.match.Get(r, k)
	out.To = q.policies(r, m.to, mesh.Key{}, func(mesh.Kind) bool { return true })
	tags := q.callerTags.Get(r, k)
	caller, _ := tags.Get()
	shown := q.policySummary.Get(r, m.to).ShownTags
	for _, o := range q.scope.Get(r, k).Slice() {
		d := q.destination(r, o.Ref.Key)
		p, ok := d.Port(o.Ref.Section)
		if !ok {
			continue
		}
		in := inSet{m.to, o.Ref}
		conf := q.outboundConfig.Get(r, in)
		io := InspectedOutbound{
			Outbound: o,
			Port:     p,
			Conf:     conf.OutboundConfig,
			Clusters: map[string]InspectedCluster{},
			About:    policy.Destination{Key: d.Key, Labels: d.Labels, Section: o.Ref.Section},
		}
		cluster := func(ref compile.Ref) {
			d := q.destination(r, ref.Key)
			p, ok := d.Port(ref.Section)
			if _, seen := io.Clusters[ref.KRI()]; seen || !ok {
				return
			}
			c := q.outboundConfig.Get(r, inSet{m.to, ref})
			io.Clusters[ref.KRI()] = InspectedCluster{
				Ref:       ref,
				Port:      p,
				Conf:      c.OutboundConfig,
				Endpoints: q.assemble(r, q.endpointsFor(ref, c, caller, shown)).Endpoints,
				TLS:       out.MTLS != "" && !q.plaintext.Get(r, ref.Key),
			}
		}
		cluster(o.Ref)
		c := q.connections.Get(r, in)
		switch backends, taken := c.backends.Get(); {
		case taken:
			io.Connections = backends
			for _, e := range c.extra {
				cluster(e)
			}
		case p.Protocol.IsHTTP():
			config, extra, _ := q.routing(r, routesKey{in, conf.Route, conf.route}, d, p)
			io.Routes = config.Routes
			io.Rules = policy.HTTPRoutes(q.policies(r, m.to, mesh.Key{},
				func(k mesh.Kind) bool { return k == mesh.KindMeshHTTPRoute }), io.About)
			for _, e := range extra {
				cluster(e)
			}
		}
		out.Outbounds = append(out.Outbounds, io)
	}
	for _, in := range mesh.Spec[*meshv1.Dataplane](out.Proxy).GetNetworking().GetInbound() {
		section := selector.Section(in)
		set := keyList{}
		if i := slices.IndexFunc(m.sections,
			func(s sectionMatch) bool { return s.section == section }); i >= 0 {
			set = m.sections[i].set
		}
		out.Inbounds = append(out.Inbounds, InspectedInbound{
			Section:  section,
			Inbound:  in,
			Protocol: compile.InboundProtocol(in),
			Policies: q.policies(r, set, mesh.Key{}, func(mesh.Kind) bool { return true }),
			Conf:     q.inboundPolicy.Get(r, inboundKey{k.Mesh, set}),
		})
	}
}

// Policies are the policies of all kinds that select a Dataplane or one of its inbounds, in no
// order; none if there is no Dataplane of the name.
func (s *Static) Policies(proxy mesh.Key) ([]*mesh.Resource, error) {
	if _, ok := s.e.s.view.Get(proxy); !ok || proxy.Kind != mesh.KindDataplane {
		return nil, nil
	}
	q := s.e.q
	var out []*mesh.Resource
	all := func(mesh.Kind) bool { return true }
	err := s.ask(proxy, func(r *graph.Reader) {
		m := q.match.Get(r, proxy)
		out = q.policies(r, m.to, mesh.Key{}, all)
		for _, section := range m.sections {
			for _, p := range q.policies(r, section.set, mesh.Key{}, all) {
				if !slices.Contains(out, p) {
					out = append(out, p)
				}
			}
		}
	})
	return out, err
}
