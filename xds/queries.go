package xds

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/selector"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// outboundConfig is what policies say about a port of a destination, and which of them said it of each part.
// Comparable.
type outboundConfig struct {
	compile.OutboundConfig
	cluster, endpoints, route, listener keyList
}

// membership is the MeshServices that select a proxy.
type membership struct {
	services []mesh.Key
	labels   map[mesh.Key]map[string]string
}

// match is the policies of a proxy.
type match struct {
	to       keyList
	sections []sectionMatch
}

type sectionMatch struct {
	section string
	set     keyList
}

func (m *match) equal(o *match) bool {
	if m == nil || o == nil {
		return m == o
	}
	return m.to == o.to && slices.Equal(m.sections, o.sections)
}

// routesOf are the routes of a destination, and the backends they need.
type routesOf struct {
	resource *delta.Resource
	extra    []compile.Ref
}

// queries are all derived values, from low to high: each reads only those declared before it.
type queries struct {
	zone string
	// hooks is Config.TestHooks.
	hooks bool
	s     *state
	pool  *pool

	head             *graph.Query[mesh.Key, policy.Head]
	mesh             *graph.Query[meshName, compile.MeshInfo]
	instance         *graph.Query[mesh.Key, *compile.Instance]
	service          *graph.Query[mesh.Key, *compile.Destination]
	multi            *graph.Query[mesh.Key, *compile.Destination]
	plaintext        *graph.Query[mesh.Key, bool]
	vip              *graph.Query[mesh.Key, string]
	local            *graph.Query[serviceRange, []ir.Endpoint]
	ingresses        *graph.Query[zoneName, []ir.Endpoint]
	endpoints        *graph.Query[endpointsKey, *delta.Resource]
	ingressEndpoints *graph.Query[portKey, *delta.Resource]
	membership       *graph.Query[mesh.Key, *membership]
	match            *graph.Query[mesh.Key, *match]
	policySummary    *graph.Query[keyList, compile.PolicySummary]
	callerTags       *graph.Query[mesh.Key, callerTags]
	outboundConfig   *graph.Query[inSet, outboundConfig]
	connections      *graph.Query[inSet, *connectionsOf]
	cluster          *graph.Query[clusterKey, *delta.Resource]
	routes           *graph.Query[routesKey, *routesOf]
	listener         *graph.Query[listenerKey, *delta.Resource]
	allOutbounds     *graph.Query[meshName, scope]
	directory        *graph.Query[meshName, *compile.Directory]
	listed           *graph.Query[listedKey, scope]
	scope            *graph.Query[mesh.Key, scope]
	group            *graph.Query[groupKey, *segment]
	inboundPolicy    *graph.Query[inboundKey, *compile.InboundConfig]
	inbound          *graph.Query[mesh.Key, *segment]
	ca               *graph.Query[meshName, *delta.Resource]
	secrets          *graph.Query[mesh.Key, *segment]
	ingress          *graph.Query[mesh.Key, *segment]
	table            *graph.Query[caller, *delta.Table]

	// What gRPC clients have is theirs alone; see calls.go.
	target             *graph.Query[targetKey, compile.Ref]
	callListener       *graph.Query[callKey, *delta.Resource]
	callCluster        *graph.Query[callClusterKey, *delta.Resource]
	callEnds           *graph.Query[portKey, *delta.Resource]
	callRoutes         *graph.Query[routesKey, *routesOf]
	calls              *graph.Query[callsKey, *segment]
	missingCertificate *graph.Query[meshName, bool]
	callTable          *graph.Query[caller, *delta.Table]
}

func newQueries(g *graph.Graph, s *state, zone string) *queries {
	q := &queries{zone: zone, s: s, pool: &pool{}}
	q.head = graph.NewQuery(g, "head",
		graph.SameBy(func(a, b policy.Head) bool { return a.Target != nil && b.Target != nil && a.Equal(b) }),
		q.computeHead)
	q.mesh = graph.NewQuery(g, "mesh", graph.Same[compile.MeshInfo],
		func(r *graph.Reader, name meshName) (compile.MeshInfo, error) {
			k := mesh.Key{Kind: mesh.KindMesh, Name: string(name)}
			return compile.NewMeshInfo(q.reads(r).Spec(k)), nil
		})
	q.instance = graph.NewQuery(g, "instance", graph.SameBy((*compile.Instance).Equal), q.computeInstance)
	q.service = graph.NewQuery(g, "service", graph.SameBy((*compile.Destination).Equal), q.computeService)
	q.multi = graph.NewQuery(g, "multizone", graph.SameBy((*compile.Destination).Equal), q.computeMulti)
	q.plaintext = graph.NewQuery(g, "plaintext", graph.Same[bool], q.computePlaintext)
	q.vip = graph.NewQuery(g, "vip", graph.Same[string], q.computeVIP)
	q.local = graph.NewQuery(g, "local_endpoints", graph.SameBy(slices.Equal[[]ir.Endpoint]), q.computeLocal)
	q.ingresses = graph.NewQuery(g, "ingresses", graph.SameBy(slices.Equal[[]ir.Endpoint]),
		q.computeIngresses)
	q.ingressEndpoints = graph.NewQuery(g, "ingress_endpoints", graph.SameBy(sameResource),
		q.computeIngressEndpoints)
	q.membership = graph.NewQuery(g, "membership", graph.SameBy(func(a, b *membership) bool {
		return a != nil && b != nil && slices.Equal(a.services, b.services) && equalLabels(a.labels, b.labels)
	}), q.computeMembership)
	q.match = graph.NewQuery(g, "match", graph.SameBy((*match).equal), q.computeMatch)
	q.endpoints = graph.NewQuery(g, "endpoints", graph.SameBy(sameResource), q.computeEndpoints)
	q.policySummary = graph.NewQuery(g, "policy_summary", graph.SameBy(compile.PolicySummary.Equal),
		q.computePolicySummary)
	q.callerTags = graph.NewQuery(g, "caller_tags", graph.Same[callerTags], q.computeCallerTags)
	q.outboundConfig = graph.NewQuery(g, "outbound_config", graph.Same[outboundConfig],
		q.computeOutboundConfig)
	q.connections = graph.NewQuery(g, "connections", graph.SameBy((*connectionsOf).equal),
		q.computeConnections)
	q.cluster = graph.NewQuery(g, "cluster", graph.SameBy(sameResource), q.computeCluster)
	q.routes = graph.NewQuery(g, "routes", q.keepRoutes, q.computeRoutes)
	q.listener = graph.NewQuery(g, "listener", graph.SameBy(sameResource), q.computeListener)
	q.allOutbounds = graph.NewQuery(g, "all_outbounds", graph.Same[scope], q.computeAllOutbounds)
	q.directory = graph.NewQuery(g, "directory", graph.Same[*compile.Directory], q.computeDirectory)
	q.listed = graph.NewQuery(g, "listed", graph.Same[scope], q.computeListed)
	q.scope = graph.NewQuery(g, "scope", graph.Same[scope], q.computeScope)
	q.group = graph.NewQuery(g, "group", keepSegment, q.computeGroup)
	q.inboundPolicy = graph.NewQuery(g, "inbound_policy", graph.SameBy((*compile.InboundConfig).Equal),
		q.computeInboundPolicy)
	q.inbound = graph.NewQuery(g, "inbound", keepSegment, q.computeInbound)
	q.ca = graph.NewQuery(g, "ca", graph.SameBy(sameResource), q.computeCA)
	q.secrets = graph.NewQuery(g, "secrets", keepSegment, q.computeSecrets)
	q.ingress = graph.NewQuery(g, "ingress", keepSegment, q.computeIngress)
	q.table = graph.NewQuery(g, "table", graph.SameBy(func(a, b *delta.Table) bool {
		return a != nil && b != nil && slices.Equal(a.Segments, b.Segments)
	}), q.computeTable)
	q.addCalls(g)
	return q
}

// renew has everything computed again that gave a resource.
func (q *queries) renew(res *delta.Resource) {
	if res == nil {
		return
	}
	same := func(r *delta.Resource) bool { return sameResource(r, res) }
	for _, query := range []*graph.Query[mesh.Key, *segment]{q.inbound, q.secrets, q.ingress} {
		query.Renew(func(s *segment) bool { return s != nil && slices.ContainsFunc(s.list, same) })
	}
	for _, query := range []*graph.Query[routesKey, *routesOf]{q.routes, q.callRoutes} {
		query.Renew(func(r *routesOf) bool { return r != nil && same(r.resource) })
	}
	for _, query := range []*graph.Query[portKey, *delta.Resource]{q.ingressEndpoints, q.callEnds} {
		query.Renew(same)
	}
	q.endpoints.Renew(same)
	q.cluster.Renew(same)
	q.listener.Renew(same)
	q.ca.Renew(same)
	q.callListener.Renew(same)
	q.callCluster.Renew(same)
}

func (q *queries) reads(r *graph.Reader) reads { return reads{Reader: r, s: q.s} }

func equalLabels(a, b map[mesh.Key]map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, la := range a {
		lb, ok := b[k]
		if !ok || len(la) != len(lb) {
			return false
		}
		for l, v := range la {
			if w, ok := lb[l]; !ok || w != v {
				return false
			}
		}
	}
	return true
}

func (q *queries) computeHead(r *graph.Reader, k mesh.Key) (policy.Head, error) {
	res := q.reads(r).Spec(k)
	if res == nil {
		return policy.Head{}, graph.ErrKeep
	}
	return policy.HeadOf(res), nil
}

func (q *queries) computeInstance(r *graph.Reader, k mesh.Key) (*compile.Instance, error) {
	rd := q.reads(r)
	res := rd.Spec(k)
	if res == nil {
		return nil, nil
	}
	return compile.NewInstance(res, rd.Spec(mesh.InsightKey(k))), nil
}

func (q *queries) computeService(r *graph.Reader, k mesh.Key) (*compile.Destination, error) {
	res := q.reads(r).Spec(k)
	if res == nil {
		return nil, nil
	}
	return compile.NewDestination(q.reads(r), res, nil, q.zone, nil), nil
}

func (q *queries) computeMulti(r *graph.Reader, k mesh.Key) (*compile.Destination, error) {
	rd := q.reads(r)
	res := rd.Spec(k)
	if res == nil {
		return nil, nil
	}
	live := func(member mesh.Key) *compile.Destination { return q.service.Get(r, member) }
	return compile.NewDestination(rd, res, rd.status(k), q.zone, live), nil
}

// destination is nil if there is none.
func (q *queries) destination(r *graph.Reader, k mesh.Key) *compile.Destination {
	info, ok := destination.Lookup(k.Kind)
	switch {
	case !ok:
		return nil
	case info.Source == destination.Combined:
		return q.multi.Get(r, k)
	}
	return q.service.Get(r, k)
}

// isRemote says that all endpoints of a destination are behind the ingresses of another zone.
func isRemote(k mesh.Key, zone string) bool {
	info, ok := destination.Lookup(k.Kind)
	return ok && info.Remote(k, zone)
}

// computePlaintext says that callers of a local service must speak in clear: the mesh is PERMISSIVE and
// not all members have certificates.
func (q *queries) computePlaintext(r *graph.Reader, k mesh.Key) (bool, error) {
	info, ok := destination.Lookup(k.Kind)
	if !ok || info.Plaintext == nil || k.Zone != q.zone ||
		q.mesh.Get(r, meshName(k.Mesh)).MTLS != "PERMISSIVE" {
		return false, nil
	}
	res := q.reads(r).status(k)
	if res == nil {
		return false, nil
	}
	return info.Plaintext(res), nil
}

func (q *queries) computeVIP(r *graph.Reader, k mesh.Key) (string, error) {
	res := q.reads(r).Spec(mesh.VirtualAddressKey(q.zone, k))
	if res == nil {
		return "", nil
	}
	v := mesh.Spec[*meshv1.VirtualAddress](res)
	if v.GetReleased() != nil {
		return "", nil
	}
	return v.GetIp(), nil
}

func (q *queries) computeLocal(r *graph.Reader, k serviceRange) ([]ir.Endpoint, error) {
	rd := q.reads(r)
	res := rd.Spec(k.service)
	p, ok := q.service.Get(r, k.service).PortNumber(k.port)
	if res == nil || !ok {
		return nil, nil
	}
	sel := destination.SelectorOf(res)
	var list []*compile.Instance
	for _, c := range compile.Candidates(rd, k.service, sel) {
		list = append(list, q.instance.Get(r, c))
	}
	near, _ := k.near.Get()
	return compile.LocalEndpoints(sel, p, list, near), nil
}

func (q *queries) computeIngresses(r *graph.Reader, zone zoneName) ([]ir.Endpoint, error) {
	rd := q.reads(r)
	var out []ir.Endpoint
	index := compile.Index{Kind: mesh.KindZoneIngress, By: compile.ByZone, Value: string(zone)}
	for _, k := range rd.Range(index) {
		res := rd.Spec(k)
		if res == nil {
			continue
		}
		if e, ok := compile.IngressEndpoint(res, rd.Spec(mesh.InsightKey(k))); ok {
			out = append(out, e)
		}
	}
	return compile.SortEndpoints(out), nil
}

// localOf are the endpoints in this zone for a destination's port.
func (q *queries) localOf(r *graph.Reader, d *compile.Destination, p compile.Port,
	near ir.Shared[compile.Locality]) []ir.Endpoint {
	if info, ok := destination.Lookup(d.Key.Kind); ok && info.Source == destination.Selected {
		if !info.Local(d.Key, q.zone) {
			return nil
		}
		return q.local.Get(r, serviceRange{d.Key, p.Number, near})
	}
	var out []ir.Endpoint
	for _, m := range d.Members {
		if m.Live && slices.Contains(m.Ports, p.Number) {
			out = append(out, q.local.Get(r, serviceRange{m.Key, p.Number, near})...)
		}
	}
	return out
}

func (q *queries) computeEndpoints(r *graph.Reader, k endpointsKey) (*delta.Resource, error) {
	return q.pool.endpoints(q.assemble(r, k), cause(k.causes, k.ref.Key)...)
}

// assemble puts the endpoints of a destination's port together, near ones and those behind other
// zones' ingresses.
func (q *queries) assemble(r *graph.Reader, k endpointsKey) ir.Endpoints {
	l, _ := k.locality.Get()
	near := compile.Locality{Weighted: l.Weighted, Affinity: l.Affinity, Shown: l.Shown}.Share()
	e := ir.Endpoints{Cluster: k.ref.KRI(), Overprovisioning: l.Overprovisioning}
	d := q.destination(r, k.ref.Key)
	if p, ok := d.Port(k.ref.Section); ok {
		var remotes []compile.Remote
		// Another zone is entered by the server name of mesh mTLS; without it there is no way.
		if q.mesh.Get(r, meshName(k.ref.Key.Mesh)).MTLS != "" {
			remotes = q.remotes(r, d, p)
		}
		own := !isRemote(d.Key, q.zone)
		e.Endpoints = compile.Assemble(q.localOf(r, d, p, near), remotes, l, own)
	}
	return e
}

func (q *queries) remotes(r *graph.Reader, d *compile.Destination, p compile.Port) []compile.Remote {
	if len(d.Members) == 0 {
		if !isRemote(d.Key, q.zone) {
			return nil
		}
		return []compile.Remote{{
			Zone:      d.Key.Zone,
			Healthy:   1,
			Ingresses: q.ingresses.Get(r, zoneName(d.Key.Zone)),
		}}
	}
	var out []compile.Remote
	for _, m := range d.Members {
		if m.Live || m.Healthy == 0 || !slices.Contains(m.Ports, p.Number) {
			continue
		}
		at := slices.IndexFunc(out, func(o compile.Remote) bool { return o.Zone == m.Key.Zone })
		if at < 0 {
			at, out = len(out), append(out, compile.Remote{
				Zone:      m.Key.Zone,
				Ingresses: q.ingresses.Get(r, zoneName(m.Key.Zone)),
			})
		}
		out[at].Healthy += m.Healthy
	}
	return out
}

func (q *queries) computeIngressEndpoints(r *graph.Reader, ref portKey) (*delta.Resource, error) {
	e := ir.Endpoints{Cluster: compile.IngressName(ref.Ref)}
	d := q.destination(r, ref.Key)
	if p, ok := d.Port(ref.Section); ok {
		e.Endpoints = compile.SortEndpoints(slices.Clone(q.localOf(r, d, p, ir.Shared[compile.Locality]{})))
	}
	return q.pool.endpoints(e, ref.Key)
}

func (q *queries) computeMembership(r *graph.Reader, k mesh.Key) (*membership, error) {
	out := &membership{labels: map[mesh.Key]map[string]string{}}
	i := q.instance.Get(r, k)
	if i == nil {
		return out, nil
	}
	for _, s := range compile.ServicesOf(q.reads(r), i) {
		out.services = append(out.services, s.Key)
		out.labels[s.Key] = s.Labels
	}
	return out, nil
}

func (q *queries) computeMatch(r *graph.Reader, k mesh.Key) (*match, error) {
	rd := q.reads(r)
	dp := rd.Spec(k)
	if dp == nil {
		return nil, graph.ErrKeep
	}
	m := q.membership.Get(r, k)
	subject := policy.Subject{Dataplane: dp, Services: m.services, ServiceLabels: m.labels}
	type selected struct {
		head policy.Head
		sel  policy.Selection
	}
	var all []selected
	for _, b := range policy.Buckets(subject) {
		for _, p := range rd.Range(compile.BucketIndex(k.Mesh, b)) {
			h := q.head.Get(r, p)
			if h.Target == nil {
				continue
			}
			if sel, ok := h.Select(subject); ok {
				all = append(all, selected{h, sel})
			}
		}
	}
	slices.SortFunc(all, func(a, b selected) int { return policy.Compare(a.head, b.head) })
	out := &match{}
	var to []mesh.Key
	for _, s := range all {
		if compile.ConcernsCalls(s.head.Key.Kind) {
			to = append(to, s.head.Key)
		}
	}
	out.to = internKeys(to)
	for _, in := range mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetInbound() {
		section := selector.Section(in)
		var in []mesh.Key
		for _, s := range all {
			if s.sel.Has(section) && compile.IsInboundConfig(s.head.Key.Kind) {
				in = append(in, s.head.Key)
			}
		}
		out.sections = append(out.sections, sectionMatch{section, internKeys(in)})
	}
	return out, nil
}
