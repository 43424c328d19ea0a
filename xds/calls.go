package xds

import (
	"slices"
	"strings"
	"unique"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/ir"
	"github.com/meridian-mesh/meridian/xds/translate"
)

// A gRPC client has no addresses to listen at: it asks for a listener by the name that the program
// calls. Names are looked up on demand, by recorded reads, so that a client costs what it calls and
// is woken by that alone. Its resources bear the names of the Envoys' but hold what gRPC takes; all
// queries that give one are of this file and are remembered apart. What policies say, and which
// endpoints there are, comes from the queries that Envoys have too.

// caller is a client of a proxy: a proxy may have several kinds.
type caller struct {
	proxy  mesh.Key
	client delta.Client
}

// nameList is an interned list of names, sorted.
type nameList = unique.Handle[string]

func internNames(names []string) nameList {
	slices.Sort(names)
	return unique.Make(strings.Join(slices.Compact(names), "\n"))
}

type (
	// targetKey is a name as Dataplanes of a mesh, zone and namespace call it.
	targetKey struct {
		at   mesh.Key
		name string
	}
	callKey struct {
		name string
		ref  compile.Ref
	}
	callClusterKey struct {
		ref compile.Ref
		// certificates is the client's provider.
		certificates string
	}
	callsKey struct {
		at           mesh.Key
		set          keyList
		names        nameList
		certificates string
	}
)

func (q *queries) addCalls(g *graph) {
	q.target = newQuery(g, "target", same[compile.Ref], q.computeTarget)
	q.callListener = newQuery(g, "call_listener", sameBy(sameResource), q.computeCallListener)
	q.callCluster = newQuery(g, "call_cluster", sameBy(sameResource), q.computeCallCluster)
	q.callEnds = newQuery(g, "call_endpoints", sameBy(sameResource), q.computeCallEndpoints)
	q.callRoutes = newQuery(g, "call_routes", q.keepRoutes, q.computeCallRoutes)
	q.calls = newQuery(g, "calls", keepSegment, q.computeCalls)
	q.keyless = newQuery(g, "keyless", same[bool], q.computeKeyless)
	q.callTable = newQuery(g, "call_table", sameBy(func(a, b *delta.Table) bool {
		return a != nil && b != nil && slices.Equal(a.Segments, b.Segments)
	}), q.computeCallTable)
}

// computeTarget is the zero Ref if there is nothing of the name.
func (q *queries) computeTarget(r *reader, k targetKey) (compile.Ref, error) {
	ref, ok := compile.Target(q.reads(r), k.at, k.name, q.finder(r))
	if !ok {
		return compile.Ref{}, nil
	}
	return ref, nil
}

func (q *queries) computeCallListener(_ *reader, k callKey) (*delta.Resource, error) {
	m, err := translate.CallListener(k.name, k.ref.KRI())
	return q.pool.encode(delta.TypeListener, k.name, m, err, []mesh.Key{k.ref.Key})
}

// computeCallCluster: in a mesh that demands mTLS a client needs a certificate; where the mesh also
// takes clear text it gets that, for gRPC does not offer the ALPN by which sidecars tell mesh
// connections from the application's own.
func (q *queries) computeCallCluster(r *reader, k callClusterKey) (*delta.Resource, error) {
	d := q.destination(r, k.ref.Key)
	if _, ok := d.Port(k.ref.Section); !ok {
		return nil, nil
	}
	name := k.ref.KRI()
	ends := name
	var tls *translate.CallTLS
	if q.mesh.get(r, k.ref.Key.Mesh).MTLS == "STRICT" {
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
func (q *queries) computeCallEndpoints(r *reader, ref compile.Ref) (*delta.Resource, error) {
	e := ir.Endpoints{Cluster: ref.KRI()}
	d := q.destination(r, ref.Key)
	if p, ok := d.Port(ref.Section); ok {
		e.Endpoints = compile.SortEndpoints(slices.Clone(q.localOf(r, d, p, ir.Shared[compile.Locality]{})))
	}
	return q.pool.encode(delta.TypeEndpoint, e.Cluster, translate.CallEndpoints(e), nil, []mesh.Key{ref.Key})
}

func (q *queries) computeCallRoutes(r *reader, k routesKey) (*routesOf, error) {
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
func (q *queries) computeCalls(r *reader, k callsKey) (*segment, error) {
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
			c, ok := q.callCluster.try(r, callClusterKey{ref, k.certificates})
			add(delta.TypeCluster, ref.KRI(), c, ok)
			list = append(list, q.callEnds.get(r, ref))
		}
	}
	routed := map[compile.Ref]bool{}
	for name := range strings.SplitSeq(k.names.Value(), "\n") {
		ref := q.target.get(r, targetKey{k.at, name})
		if ref == (compile.Ref{}) {
			continue
		}
		list = append(list, q.callListener.get(r, callKey{name, ref}))
		if routed[ref] {
			continue
		}
		routed[ref] = true
		destination(ref)
		in := inSet{set: k.set, ref: ref}
		conf, ok := q.confs.try(r, in)
		var routes *routesOf
		if ok {
			routes, ok = q.callRoutes.try(r, routesKey{in, conf.Route, conf.route})
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

// conditionError is no failure to compute a value but a condition that a person has to see to: it
// concerns the change that brought it about, and none after that.
type conditionError string

func (e conditionError) Error() string { return string(e) }

const errKeyless = conditionError("the mesh demands mTLS and this gRPC client has no certificate: name a " +
	"certificate provider of its bootstrap " +
	"in its node metadata, dataplane.certificateProvider, or set the mesh's backend to PERMISSIVE; " +
	"until then " +
	"its calls fail")

// computeKeyless fails where a client without a certificate can reach nobody, which is how
// [Progress] gets to say so.
func (q *queries) computeKeyless(r *reader, meshName string) (bool, error) {
	if q.mesh.get(r, meshName).MTLS == "STRICT" {
		return false, errKeyless
	}
	return false, nil
}

func (q *queries) computeCallTable(r *reader, k caller) (*delta.Table, error) {
	rd := q.reads(r)
	if rd.Spec(k.proxy) == nil || k.proxy.Kind != mesh.KindDataplane {
		return nil, errGone
	}
	t := &delta.Table{}
	whole := true
	var lacks []lack
	if m, names := q.match.get(r, k.proxy), rd.wanted(k); m != nil && names != (nameList{}) &&
		names.Value() != "" {
		if k.client.CertificateProvider == "" {
			q.keyless.get(r, k.proxy.Mesh)
		}
		at := mesh.Key{
			Kind:      k.proxy.Kind,
			Mesh:      k.proxy.Mesh,
			Zone:      k.proxy.Zone,
			Namespace: k.proxy.Namespace,
		}
		var s *segment
		if s, whole = q.calls.try(r, callsKey{at, m.to, names, k.client.CertificateProvider}); s != nil {
			t.Segments, lacks = append(t.Segments, s.set), s.lacks
		}
	}
	// gRPC reads certificates from files and never asks for these; what writes the files for it does.
	if s := q.secrets.get(r, k.proxy); s != nil {
		t.Segments = append(t.Segments, s.set)
	}
	if last := q.callTable.nodes[k].value; last != nil && (len(lacks) > 0 || !whole) {
		keepLacking(t, last, lacks, !whole)
	}
	return t, nil
}
