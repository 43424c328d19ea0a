package xds

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unique"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// errGone says that a proxy's resource is not there (yet, or any more): what it had stays.
var errGone = errors.New("resource is gone")

// keyList is an interned list of keys: equal lists are the same value, so that proxies with equal
// policies meet in one node. It is freed when nobody has it.
type keyList = unique.Handle[string]

var noKeys = internKeys(nil)

func internKeys(keys []mesh.Key) keyList {
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(k.String())
	}
	return unique.Make(b.String())
}

// scope is an interned list of outbounds.
type scope = unique.Handle[string]

func internScope(list []compile.Outbound) scope {
	var b strings.Builder
	for _, o := range list {
		fmt.Fprintf(&b, "%s\t%s\t%d\t%t\t%s\t%s\n", o.Name, o.Address, o.Port, o.Unbound, o.Ref.Key,
			o.Ref.Section)
	}
	return unique.Make(b.String())
}

type (
	// inSet is a destination's port as a group of proxies with equal policies sees it.
	inSet struct {
		set keyList
		ref compile.Ref
	}
	serviceRange struct {
		service mesh.Key
		port    uint32
		// near is the part of a locality that places instances of this zone.
		near ir.Shared[compile.Locality]
	}
	clusterKey struct {
		ref    compile.Ref
		conf   ir.ClusterPolicy
		causes keyList
	}
	// endpointsKey is a destination's port for callers with the same locality; causes are the
	// policies that made it.
	endpointsKey struct {
		ref      compile.Ref
		locality ir.Shared[compile.Locality]
		causes   keyList
	}
	routesKey struct {
		inSet
		conf   ir.RoutePolicy
		causes keyList
	}
	listenerKey struct {
		outbound compile.Outbound
		conf     ir.ListenerPolicy
		// backends of a MeshTCPRoute, if one takes the connections.
		backends ir.Shared[[]ir.Backend]
		causes   keyList
	}
	// listedKey is a list of outbounds as Dataplanes of a mesh, zone and namespace write it.
	listedKey struct {
		at        mesh.Key
		outbounds unique.Handle[string]
	}
	inboundKey struct {
		mesh string
		set  keyList
	}
	groupKey struct {
		set   keyList
		scope scope
		tags  callerTags
	}
)

// confs is what policies say about a port of a destination, and which of them said it of each part.
// Comparable.
type confs struct {
	compile.OutboundConf
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

	set         *query[keyList, []mesh.Key]
	head        *query[mesh.Key, policy.Head]
	mesh        *query[string, compile.MeshInfo]
	instance    *query[mesh.Key, *compile.Instance]
	service     *query[mesh.Key, *compile.Destination]
	multi       *query[mesh.Key, *compile.Destination]
	plain       *query[mesh.Key, bool]
	vip         *query[mesh.Key, string]
	local       *query[serviceRange, []ir.Endpoint]
	ingresses   *query[string, []ir.Endpoint]
	endpoints   *query[endpointsKey, *delta.Resource]
	arrivals    *query[compile.Ref, *delta.Resource]
	membership  *query[mesh.Key, *membership]
	match       *query[mesh.Key, *match]
	survey      *query[keyList, compile.Survey]
	callerTags  *query[mesh.Key, callerTags]
	confs       *query[inSet, confs]
	connections *query[inSet, *connectionsOf]
	cluster     *query[clusterKey, *delta.Resource]
	routes      *query[routesKey, *routesOf]
	listener    *query[listenerKey, *delta.Resource]
	everything  *query[string, scope]
	directory   *query[string, *compile.Directory]
	listed      *query[listedKey, scope]
	scope       *query[mesh.Key, scope]
	outbounds   *query[scope, []compile.Outbound]
	group       *query[groupKey, *segment]
	policed     *query[inboundKey, *compile.InboundConf]
	inbound     *query[mesh.Key, *segment]
	ca          *query[string, *delta.Resource]
	secrets     *query[mesh.Key, *segment]
	ingress     *query[mesh.Key, *segment]
	table       *query[mesh.Key, *delta.Table]

	// What gRPC clients have is theirs alone; see calls.go.
	target       *query[targetKey, compile.Ref]
	callListener *query[callKey, *delta.Resource]
	callCluster  *query[callClusterKey, *delta.Resource]
	callEnds     *query[compile.Ref, *delta.Resource]
	callRoutes   *query[routesKey, *routesOf]
	calls        *query[callsKey, *segment]
	keyless      *query[string, bool]
	callTable    *query[caller, *delta.Table]
}

func newQueries(g *graph, s *state, zone string) *queries {
	q := &queries{zone: zone, s: s, pool: newPool()}
	q.set = newQuery(g, "set", sameBy(slices.Equal[[]mesh.Key]), computeSet)
	q.head = newQuery(g, "head",
		sameBy(func(a, b policy.Head) bool { return a.Target != nil && b.Target != nil && a.Equal(b) }),
		q.computeHead)
	q.mesh = newQuery(g, "mesh", same[compile.MeshInfo],
		func(r *reader, name string) (compile.MeshInfo, error) {
			return compile.NewMeshInfo(q.reads(r).Spec(mesh.Key{Kind: mesh.KindMesh, Name: name})), nil
		})
	q.instance = newQuery(g, "instance", sameBy((*compile.Instance).Equal), q.computeInstance)
	q.service = newQuery(g, "service", sameBy((*compile.Destination).Equal), q.computeService)
	q.multi = newQuery(g, "multizone", sameBy((*compile.Destination).Equal), q.computeMulti)
	q.plain = newQuery(g, "plain", same[bool], q.computePlain)
	q.vip = newQuery(g, "vip", same[string], q.computeVIP)
	q.local = newQuery(g, "local_endpoints", sameBy(slices.Equal[[]ir.Endpoint]), q.computeLocal)
	q.ingresses = newQuery(g, "ingresses", sameBy(slices.Equal[[]ir.Endpoint]), q.computeIngresses)
	q.arrivals = newQuery(g, "ingress_endpoints", sameBy(sameResource), q.computeArrivals)
	q.membership = newQuery(g, "membership", sameBy(func(a, b *membership) bool {
		return a != nil && b != nil && slices.Equal(a.services, b.services) && equalLabels(a.labels, b.labels)
	}), q.computeMembership)
	q.match = newQuery(g, "match", sameBy((*match).equal), q.computeMatch)
	q.endpoints = newQuery(g, "endpoints", sameBy(sameResource), q.computeEndpoints)
	q.survey = newQuery(g, "survey", sameBy(compile.Survey.Equal), q.computeSurvey)
	q.callerTags = newQuery(g, "caller_tags", same[callerTags], q.computeCallerTags)
	q.confs = newQuery(g, "confs", same[confs], q.computeConfs)
	q.connections = newQuery(g, "connections", sameBy((*connectionsOf).equal), q.computeConnections)
	q.cluster = newQuery(g, "cluster", sameBy(sameResource), q.computeCluster)
	q.routes = newQuery(g, "routes", q.keepRoutes, q.computeRoutes)
	q.listener = newQuery(g, "listener", sameBy(sameResource), q.computeListener)
	q.everything = newQuery(g, "everything", same[scope], q.computeEverything)
	q.directory = newQuery(g, "directory", same[*compile.Directory], q.computeDirectory)
	q.listed = newQuery(g, "listed", same[scope], q.computeListed)
	q.scope = newQuery(g, "scope", same[scope], q.computeScope)
	q.outbounds = newQuery(g, "outbounds", sameBy(slices.Equal[[]compile.Outbound]), computeOutbounds)
	q.group = newQuery(g, "group", keepSegment, q.computeGroup)
	q.policed = newQuery(g, "inbound_policy", sameBy((*compile.InboundConf).Equal), q.computePoliced)
	q.inbound = newQuery(g, "inbound", keepSegment, q.computeInbound)
	q.ca = newQuery(g, "ca", sameBy(sameResource), q.computeCA)
	q.secrets = newQuery(g, "secrets", keepSegment, q.computeSecrets)
	q.ingress = newQuery(g, "ingress", keepSegment, q.computeIngress)
	q.table = newQuery(g, "table", sameBy(func(a, b *delta.Table) bool {
		return a != nil && b != nil && slices.Equal(a.Segments, b.Segments)
	}), q.computeTable)
	q.addCalls(g)
	return q
}

func (q *queries) reads(r *reader) reads { return reads{reader: r, s: q.s} }

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

func (q *queries) computeHead(r *reader, k mesh.Key) (policy.Head, error) {
	res := q.reads(r).Spec(k)
	if res == nil {
		return policy.Head{}, errGone
	}
	return policy.HeadOf(res), nil
}

func (q *queries) computeInstance(r *reader, k mesh.Key) (*compile.Instance, error) {
	rd := q.reads(r)
	res := rd.Spec(k)
	if res == nil {
		return nil, nil
	}
	return compile.NewInstance(res, rd.Spec(mesh.InsightKey(k))), nil
}

func (q *queries) computeService(r *reader, k mesh.Key) (*compile.Destination, error) {
	res := q.reads(r).Spec(k)
	if res == nil {
		return nil, nil
	}
	return compile.NewService(res), nil
}

func (q *queries) computeMulti(r *reader, k mesh.Key) (*compile.Destination, error) {
	rd := q.reads(r)
	res := rd.Spec(k)
	if res == nil {
		return nil, nil
	}
	status := mesh.Status[*meshv1.MeshMultiZoneServiceStatus](rd.status(k))
	var live []*compile.Destination
	for _, c := range compile.LiveCandidates(rd, res, status, q.zone) {
		live = append(live, q.service.get(r, c))
	}
	return compile.NewMultiZone(res, status, q.zone, live), nil
}

// destination is nil if there is none.
func (q *queries) destination(r *reader, k mesh.Key) *compile.Destination {
	switch k.Kind {
	case mesh.KindMeshService:
		return q.service.get(r, k)
	case mesh.KindMeshMultiZoneService:
		return q.multi.get(r, k)
	}
	return nil
}

// computePlain says that callers of a local service must speak in clear: the mesh is PERMISSIVE and
// not all members have certificates.
func (q *queries) computePlain(r *reader, k mesh.Key) (bool, error) {
	if k.Kind != mesh.KindMeshService || k.Zone != q.zone || q.mesh.get(r, k.Mesh).MTLS != "PERMISSIVE" {
		return false, nil
	}
	res := q.reads(r).status(k)
	if res == nil {
		return false, nil
	}
	return mesh.Status[*meshv1.MeshServiceStatus](res).GetTls().GetStatus() != "Ready", nil
}

func (q *queries) computeVIP(r *reader, k mesh.Key) (string, error) {
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

func (q *queries) computeLocal(r *reader, k serviceRange) ([]ir.Endpoint, error) {
	rd := q.reads(r)
	res := rd.Spec(k.service)
	p, ok := q.service.get(r, k.service).PortNumber(k.port)
	if res == nil || !ok {
		return nil, nil
	}
	sel := mesh.Spec[*meshv1.MeshService](res).GetSelector()
	var list []*compile.Instance
	for _, c := range compile.Candidates(rd, k.service, sel) {
		list = append(list, q.instance.get(r, c))
	}
	near, _ := k.near.Get()
	return compile.LocalEndpoints(sel, p, list, near), nil
}

func (q *queries) computeIngresses(r *reader, zone string) ([]ir.Endpoint, error) {
	rd := q.reads(r)
	var out []ir.Endpoint
	for _, k := range rd.Range(compile.Index{Kind: mesh.KindZoneIngress, By: compile.ByZone, Value: zone}) {
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
func (q *queries) localOf(r *reader, d *compile.Destination, p compile.Port,
	near ir.Shared[compile.Locality]) []ir.Endpoint {
	if d.Key.Kind == mesh.KindMeshService {
		if d.Key.Zone != q.zone {
			return nil
		}
		return q.local.get(r, serviceRange{d.Key, p.Number, near})
	}
	var out []ir.Endpoint
	for _, m := range d.Members {
		if m.Live && slices.Contains(m.Ports, p.Number) {
			out = append(out, q.local.get(r, serviceRange{m.Key, p.Number, near})...)
		}
	}
	return out
}

func (q *queries) computeEndpoints(r *reader, k endpointsKey) (*delta.Resource, error) {
	return q.pool.endpoints(q.assemble(r, k), q.cause(r, k.causes, k.ref.Key)...)
}

// assemble puts the endpoints of a destination's port together, near ones and those behind other
// zones' ingresses.
func (q *queries) assemble(r *reader, k endpointsKey) ir.Endpoints {
	l, _ := k.locality.Get()
	near := compile.Locality{Weighted: l.Weighted, Affinity: l.Affinity, Shown: l.Shown}.Share()
	e := ir.Endpoints{Cluster: k.ref.KRI(), Overprovisioning: l.Overprovisioning}
	d := q.destination(r, k.ref.Key)
	if p, ok := d.Port(k.ref.Section); ok {
		var remotes []compile.Remote
		// Another zone is entered by the server name of mesh mTLS; without it there is no way.
		if q.mesh.get(r, k.ref.Key.Mesh).MTLS != "" {
			remotes = q.remotes(r, d, p)
		}
		own := d.Key.Kind != mesh.KindMeshService || d.Key.Zone == q.zone
		e.Endpoints = compile.Assemble(q.localOf(r, d, p, near), remotes, l, own)
	}
	return e
}

func (q *queries) remotes(r *reader, d *compile.Destination, p compile.Port) []compile.Remote {
	if d.Key.Kind == mesh.KindMeshService {
		if d.Key.Zone == q.zone {
			return nil
		}
		return []compile.Remote{{Zone: d.Key.Zone, Healthy: 1, Ingresses: q.ingresses.get(r, d.Key.Zone)}}
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
				Ingresses: q.ingresses.get(r, m.Key.Zone),
			})
		}
		out[at].Healthy += m.Healthy
	}
	return out
}

func (q *queries) computeArrivals(r *reader, ref compile.Ref) (*delta.Resource, error) {
	e := ir.Endpoints{Cluster: compile.IngressName(ref)}
	d := q.destination(r, ref.Key)
	if p, ok := d.Port(ref.Section); ok {
		e.Endpoints = compile.SortEndpoints(slices.Clone(q.localOf(r, d, p, ir.Shared[compile.Locality]{})))
	}
	return q.pool.endpoints(e, ref.Key)
}

func (q *queries) computeMembership(r *reader, k mesh.Key) (*membership, error) {
	out := &membership{labels: map[mesh.Key]map[string]string{}}
	i := q.instance.get(r, k)
	if i == nil {
		return out, nil
	}
	for _, s := range compile.ServicesOf(q.reads(r), i) {
		out.services = append(out.services, s.Key)
		out.labels[s.Key] = s.Labels
	}
	return out, nil
}

func (q *queries) computeMatch(r *reader, k mesh.Key) (*match, error) {
	rd := q.reads(r)
	dp := rd.Spec(k)
	if dp == nil {
		return nil, errGone
	}
	m := q.membership.get(r, k)
	subject := policy.Subject{Dataplane: dp, Services: m.services, ServiceLabels: m.labels}
	type selected struct {
		head policy.Head
		sel  policy.Selection
	}
	var all []selected
	for _, b := range policy.Buckets(subject) {
		for _, p := range rd.Range(compile.BucketIndex(k.Mesh, b)) {
			h := q.head.get(r, p)
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
		section := policy.SectionName(in)
		var in []mesh.Key
		for _, s := range all {
			if s.sel.Has(section) && compile.IsInboundConf(s.head.Key.Kind) {
				in = append(in, s.head.Key)
			}
		}
		out.sections = append(out.sections, sectionMatch{section, internKeys(in)})
	}
	return out, nil
}

func computeSet(_ *reader, l keyList) ([]mesh.Key, error) {
	if l.Value() == "" {
		return nil, nil
	}
	var out []mesh.Key
	for line := range strings.SplitSeq(l.Value(), "\n") {
		k, err := mesh.ParseKey(line)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}
