package xds

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// computeInboundPolicy is what policies say about every inbound that they select.
func (q *queries) computeInboundPolicy(r *graph.Reader, k inboundKey) (*compile.InboundConfig, error) {
	return compile.NewInboundConfig(k.mesh, q.policies(r, k.set, mesh.Key{}, compile.IsInboundConfig)), nil
}

// computeInbound is what only this proxy has: its inbounds, and the listeners that catch redirected traffic.
func (q *queries) computeInbound(r *graph.Reader, k mesh.Key) (*segment, error) {
	dp := q.reads(r).Spec(k)
	if dp == nil {
		return nil, graph.ErrKeep
	}
	info := q.mesh.Get(r, meshName(k.Mesh))
	m := q.match.Get(r, k)
	causes := map[string][]mesh.Key{}
	listeners, clusters := compile.Inbounds(dp, info, func(section string) *compile.InboundConfig {
		set := keyList{}
		if m != nil {
			for _, s := range m.sections {
				if s.section == section {
					set = s.set
				}
			}
		}
		conf := q.inboundPolicy.Get(r, inboundKey{k.Mesh, set})
		if q.s.holds(set, k) {
			conf = compile.NewInboundConfig(k.Mesh, q.policies(r, set, k, compile.IsInboundConfig))
		}
		causes["self_inbound_dp_"+section] = conf.Causes
		return conf
	})
	tl, tc := compile.Transparent(dp, info)
	var list []*delta.Resource
	for _, c := range append(clusters, tc...) {
		res, err := q.pool.cluster(c, append(slices.Clone(causes[c.Name]), k)...)
		if err != nil {
			return nil, err
		}
		list = append(list, res)
	}
	for _, l := range append(listeners, tl...) {
		res, err := q.pool.listener(l, append(slices.Clone(causes[l.Name]), k)...)
		if err != nil {
			return nil, err
		}
		list = append(list, res)
	}
	return newSegment(list), nil
}

func (q *queries) computeCA(r *graph.Reader, name meshName) (*delta.Resource, error) {
	info := q.mesh.Get(r, name)
	if info.MTLS == "" {
		return nil, nil
	}
	data, cause := []byte(info.CAText), mesh.Key{Kind: mesh.KindMesh, Name: string(name)}
	if info.CA != (mesh.Key{}) {
		cause = info.CA
		res := q.reads(r).Spec(info.CA)
		if res == nil {
			return nil, nil
		}
		data = mesh.Spec[*meshv1.Secret](res).GetData()
	}
	if len(data) == 0 {
		return nil, nil
	}
	return q.pool.secret(ir.Secret{Name: ir.CASecret(string(name)), Trust: data}, cause)
}

// computeSecrets is a proxy's certificate and the bundle it trusts.
func (q *queries) computeSecrets(r *graph.Reader, k mesh.Key) (*segment, error) {
	list := []*delta.Resource{q.ca.Get(r, meshName(k.Mesh))}
	if id := q.reads(r).identity(k); id != nil && q.mesh.Get(r, meshName(k.Mesh)).MTLS != "" {
		res, err := q.pool.secret(ir.Secret{Name: ir.IdentitySecret(k.Mesh), Chain: id.Chain, Key: id.Key}, k)
		if err != nil {
			return nil, err
		}
		list = append(list, res)
	}
	return newSegment(list), nil
}

// computeIngress is a zone ingress: a chain for every port of this zone's services and of the
// multi-zone services that have members here, in every mesh with mTLS.
func (q *queries) computeIngress(r *graph.Reader, k mesh.Key) (*segment, error) {
	rd := q.reads(r)
	res := rd.Spec(k)
	if res == nil {
		return nil, graph.ErrKeep
	}
	var chains []ir.Chain
	var list []*delta.Resource
	seen := map[string]bool{}
	add := func(d *compile.Destination, p compile.Port) error {
		ref := compile.Ref{Key: d.Key, Section: p.Name}
		// Two destinations can spell the same server name (a name with dots); the first in order has it.
		if seen[compile.SNI(ref)] {
			return nil
		}
		seen[compile.SNI(ref)] = true
		chains = append(chains, compile.IngressChain(ref))
		c, err := q.pool.cluster(compile.IngressCluster(compile.IngressName(ref)), d.Key)
		if err != nil {
			return err
		}
		list = append(list, c, q.ingressEndpoints.Get(r, portKey{ref}))
		return nil
	}
	for _, m := range rd.Range(compile.Index{Kind: mesh.KindMesh}) {
		if q.mesh.Get(r, meshName(m.Name)).MTLS == "" {
			continue
		}
		for _, info := range destination.Kinds {
			for _, s := range rd.Range(compile.Index{Kind: info.Kind, Mesh: m.Name}) {
				d := q.destination(r, s)
				if d == nil || info.Remote(s, q.zone) {
					continue
				}
				for _, p := range d.Ports {
					if !info.Local(s, q.zone) && !hasLiveMember(d, p) {
						continue
					}
					if err := add(d, p); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	l, err := q.pool.listener(compile.IngressListener(res, chains), k)
	if err != nil {
		return nil, err
	}
	return newSegment(append(list, l)), nil
}

// hasLiveMember says that a member in this zone has the port.
func hasLiveMember(d *compile.Destination, p compile.Port) bool {
	return slices.ContainsFunc(d.Members,
		func(m compile.Member) bool { return m.Live && slices.Contains(m.Ports, p.Number) })
}

// computeTable is all of a proxy. Segments keep their places: the server compares them in order.
func (q *queries) computeTable(r *graph.Reader, c caller) (*delta.Table, error) {
	k := c.proxy
	res := q.reads(r).Spec(k)
	if res == nil {
		return nil, graph.ErrKeep
	}
	if k.Kind == mesh.KindZoneIngress {
		s := q.ingress.Get(r, k)
		if s == nil {
			return nil, graph.ErrKeep
		}
		return &delta.Table{Segments: []*delta.Segment{s.set}}, nil
	}
	t := &delta.Table{}
	m, whole := q.match.Try(r, k)
	var lacks []lack
	if m != nil {
		s, ok := q.group.Try(r, groupKey{m.to, q.scope.Get(r, k), q.callerTags.Get(r, k)})
		if whole = whole && ok; s != nil {
			t.Segments, lacks = append(t.Segments, s.set), s.lacks
		}
	}
	if s := q.inbound.Get(r, k); s != nil {
		t.Segments = append(t.Segments, s.set)
	}
	if s := q.secrets.Get(r, k); s != nil {
		t.Segments = append(t.Segments, s.set)
	}
	if last := q.table.Last(c); last != nil && (len(lacks) > 0 || !whole) {
		keepLacking(t, last, lacks, !whole)
	}
	return t, nil
}
