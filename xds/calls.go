package xds

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
	"github.com/meridian-mesh/meridian/xds/translate"
)

// A gRPC client has no addresses to listen at: it asks for a listener by the name that the program
// calls. Names are looked up on demand, by recorded reads, so that a client costs what it calls and
// is notified by that alone. Its resources bear the names of the Envoys' but hold what gRPC takes; all
// queries that give one are of this file and are remembered apart. What policies say, and which
// endpoints there are, comes from the queries that Envoys have too.

func (q *queries) addCalls(g *graph.Graph) {
	q.target = graph.NewQuery(g, "target", graph.Same[compile.Ref], q.computeTarget)
	q.callListener = graph.NewQuery(g, "call_listener", graph.SameBy(sameResource), q.computeCallListener)
	q.callCluster = graph.NewQuery(g, "call_cluster", graph.SameBy(sameResource), q.computeCallCluster)
	q.callEnds = graph.NewQuery(g, "call_endpoints", graph.SameBy(sameResource), q.computeCallEndpoints)
	q.callRoutes = graph.NewQuery(g, "call_routes", q.keepRoutes, q.computeCallRoutes)
	q.calls = graph.NewQuery(g, "calls", keepSegment, q.computeCalls)
	q.missingCertificate = graph.NewQuery(g, "missing_certificate", graph.Same[bool],
		q.computeMissingCertificate)
	q.callTable = graph.NewQuery(g, "call_table", graph.SameBy(func(a, b *delta.Table) bool {
		return a != nil && b != nil && slices.Equal(a.Segments, b.Segments)
	}), q.computeCallTable)
}

// computeTarget is the zero Ref if there is nothing of the name.
func (q *queries) computeTarget(r *graph.Reader, k targetKey) (compile.Ref, error) {
	ref, ok := compile.Target(q.reads(r), k.at, k.name, q.finder(r))
	if !ok {
		return compile.Ref{}, nil
	}
	return ref, nil
}

func (q *queries) computeCallListener(_ *graph.Reader, k callKey) (*delta.Resource, error) {
	m, err := translate.CallListener(k.name, k.ref.KRI())
	return q.pool.encode(delta.TypeListener, k.name, m, err, []mesh.Key{k.ref.Key})
}

// computeCallCluster: in a mesh that requires mTLS a client needs a certificate; where the mesh also
// takes clear text it gets that, for gRPC does not offer the ALPN by which sidecars tell mesh
// connections from the application's own.
func (q *queries) computeCallCluster(r *graph.Reader, k callClusterKey) (*delta.Resource, error) {
	d := q.destination(r, k.ref.Key)
	if _, ok := d.Port(k.ref.Section); !ok {
		return nil, nil
	}
	name := k.ref.KRI()
	ends := name
	var tls *translate.CallTLS
	if q.mesh.Get(r, meshName(k.ref.Key.Mesh)).MTLS == "STRICT" {
		if k.certificates == "" {
			ends = translate.NoCertificates
		} else {
			tls = &translate.CallTLS{
				Provider:    k.certificates,
				UpstreamTLS: ir.UpstreamTLS{Mesh: d.Key.Mesh, SNI: compile.SNI(k.ref), SANs: d.SANs},
			}
		}
	}
	m, err := translate.CallCluster(name, ends, tls)
	return q.pool.encode(delta.TypeCluster, name, m, err, []mesh.Key{k.ref.Key})
}

// computeCallEndpoints are this zone's: another zone is entered by a server name that gRPC clients
// do not send.
func (q *queries) computeCallEndpoints(r *graph.Reader, ref portKey) (*delta.Resource, error) {
	e := ir.Endpoints{Cluster: ref.KRI()}
	d := q.destination(r, ref.Key)
	if p, ok := d.Port(ref.Section); ok {
		e.Endpoints = compile.SortEndpoints(slices.Clone(q.localOf(r, d, p, ir.Shared[compile.Locality]{})))
	}
	return q.pool.encode(delta.TypeEndpoint, e.Cluster, translate.CallEndpoints(e), nil, []mesh.Key{ref.Key})
}

func (q *queries) computeCallRoutes(r *graph.Reader, k routesKey) (*routesOf, error) {
	d := q.destination(r, k.ref.Key)
	p, ok := d.Port(k.ref.Section)
	if !ok {
		return &routesOf{}, nil
	}
	// A port of which the protocol is not known carries what the client sends, without policies
	// about requests.
	config := ir.RouteConfig{
		Name: k.ref.KRI(),
		Routes: []ir.Route{{
			Match:    ir.Match{Path: "/"},
			Backends: []ir.Backend{{Cluster: k.ref.KRI(), Weight: 1}},
		}},
	}
	var extra []compile.Ref
	cause := []mesh.Key{k.ref.Key}
	if p.Protocol.IsHTTP() {
		config, extra, cause = q.routing(r, k, d, p)
	}
	res, err := q.pool.encode(delta.TypeRoute, config.Name, translate.CallRoutes(config), nil, cause)
	return &routesOf{resource: res, extra: extra}, err
}

// computeCalls is everything of all gRPC clients with the same policies that call the same names.
func (q *queries) computeCalls(r *graph.Reader, k callsKey) (*segment, error) {
	var list []*delta.Resource
	done := map[compile.Ref]bool{}
	var lacks []lack
	add := func(typ delta.Type, name string, res *delta.Resource, ok bool) {
		if list = append(list, res); !ok {
			lacks = append(lacks, lack{typ, name})
		}
	}
	destination := func(ref compile.Ref) {
		if !done[ref] {
			done[ref] = true
			c, ok := q.callCluster.Try(r, callClusterKey{ref, k.certificates})
			add(delta.TypeCluster, ref.KRI(), c, ok)
			list = append(list, q.callEnds.Get(r, portKey{ref}))
		}
	}
	routed := map[compile.Ref]bool{}
	for _, name := range k.names.Slice() {
		ref := q.target.Get(r, targetKey{k.at, name})
		if ref == (compile.Ref{}) {
			continue
		}
		list = append(list, q.callListener.Get(r, callKey{name, ref}))
		if routed[ref] {
			continue
		}
		routed[ref] = true
		destination(ref)
		in := inSet{set: k.set, ref: ref}
		conf, ok := q.outboundConfig.Try(r, in)
		var routes *routesOf
		if ok {
			routes, ok = q.callRoutes.Try(r, routesKey{in, conf.Route, conf.route})
		}
		if !ok {
			add(delta.TypeRoute, ref.KRI(), nil, false)
		}
		if routes != nil {
			list = append(list, routes.resource)
			for _, extra := range routes.extra {
				destination(extra)
			}
		}
	}
	for _, name := range []string{translate.MissingBackend, translate.NoCertificates} {
		c, err := translate.CallCluster(name, name, nil)
		res, err := q.pool.encode(delta.TypeCluster, name, c, err, nil)
		if err != nil {
			return nil, err
		}
		ends, err := q.pool.encode(delta.TypeEndpoint, name,
			translate.CallEndpoints(ir.Endpoints{Cluster: name}), nil, nil)
		if err != nil {
			return nil, err
		}
		list = append(list, res, ends)
	}
	s := newSegment(list)
	s.lacks = lacks
	return s, nil
}

// conditionError is a condition that a user has to mend, not a failure to compute a value: it concerns
// the change that brought it about, and none after that.
type conditionError string

func (e conditionError) Error() string { return string(e) }

const errMissingCertificate = conditionError("the mesh requires mTLS and this gRPC client has no " +
	"certificate: name a certificate provider of its bootstrap in its node metadata, " +
	"dataplane.certificateProvider, or set the mesh's backend to PERMISSIVE; until then its calls fail")

// computeMissingCertificate fails where a client without a certificate cannot reach any destination:
// so it is one of the rejections of [Progress].
func (q *queries) computeMissingCertificate(r *graph.Reader, name meshName) (bool, error) {
	if q.mesh.Get(r, name).MTLS == "STRICT" {
		return false, errMissingCertificate
	}
	return false, nil
}

func (q *queries) computeCallTable(r *graph.Reader, k caller) (*delta.Table, error) {
	rd := q.reads(r)
	if rd.Spec(k.proxy) == nil || k.proxy.Kind != mesh.KindDataplane {
		return nil, graph.ErrKeep
	}
	t := &delta.Table{}
	whole := true
	var lacks []lack
	if m, names := q.match.Get(r, k.proxy), rd.subscribedNames(k); m != nil && names.Len() > 0 {
		if k.client.CertificateProvider == "" {
			q.missingCertificate.Get(r, meshName(k.proxy.Mesh))
		}
		at := mesh.Key{
			Kind:      k.proxy.Kind,
			Mesh:      k.proxy.Mesh,
			Zone:      k.proxy.Zone,
			Namespace: k.proxy.Namespace,
		}
		var s *segment
		if s, whole = q.calls.Try(r, callsKey{at, m.to, names, k.client.CertificateProvider}); s != nil {
			t.Segments, lacks = append(t.Segments, s.set), s.lacks
		}
	}
	// gRPC reads certificates from files and never asks for these; what writes the files for it does.
	if s := q.secrets.Get(r, k.proxy); s != nil {
		t.Segments = append(t.Segments, s.set)
	}
	if last := q.callTable.Last(k); last != nil && (len(lacks) > 0 || !whole) {
		keepLacking(t, last, lacks, !whole)
	}
	return t, nil
}
