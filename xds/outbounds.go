package xds

import (
	"slices"

	"github.com/meridian-mesh/meridian/internal/intern"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// policies are the resources in an interned list whose kind fits, in the order of the list, as they are in
// force for a destination or for a proxy's inbounds; as they are stored if about is the zero Key.
func (q *queries) policies(r *graph.Reader, l keyList, about mesh.Key,
	want func(mesh.Kind) bool) []*mesh.Resource {
	rd := q.reads(r)
	var out []*mesh.Resource
	for _, k := range l.Slice() {
		if !want(k.Kind) {
			continue
		}
		if res := rd.policy(k, about); res != nil {
			out = append(out, res)
		}
	}
	return out
}

// policiesAbout are [queries.policies] for a query that needs what they say of one destination alone:
// a change of what they say of services of other names does not make it dirty.
func (q *queries) policiesAbout(r *graph.Reader, l keyList, dest mesh.Key,
	want func(mesh.Kind) bool) []*mesh.Resource {
	rd := q.reads(r)
	var out []*mesh.Resource
	for _, k := range l.Slice() {
		if !want(k.Kind) {
			continue
		}
		if res := rd.policyFor(k, dest); res != nil {
			out = append(out, res)
		}
	}
	q.s.named.Note(r, serviceName{dest.Mesh, policy.PartOf(dest),
		want(mesh.KindMeshHTTPRoute) || want(mesh.KindMeshTCPRoute)})
	return out
}

func (q *queries) computeOutboundConfig(r *graph.Reader, k inSet) (outboundConfig, error) {
	d := q.destination(r, k.ref.Key)
	p, ok := d.Port(k.ref.Section)
	if !ok {
		return outboundConfig{}, nil
	}
	conf, why := compile.NewOutboundConfig(q.policiesAbout(r, k.set, d.Key, compile.IsOutboundConfig),
		policy.Destination{Key: d.Key, Labels: d.Labels, Section: k.ref.Section}, p)
	return outboundConfig{conf, internKeys(why.Cluster), internKeys(why.Endpoints), internKeys(why.Route),
		internKeys(why.Listener)}, nil
}

// cause is the policies of a list and what else a resource came from.
func cause(l keyList, more ...mesh.Key) []mesh.Key {
	return append(slices.Clone(l.Slice()), more...)
}

func (q *queries) computeCluster(r *graph.Reader, k clusterKey) (*delta.Resource, error) {
	d := q.destination(r, k.ref.Key)
	p, ok := d.Port(k.ref.Section)
	if !ok {
		return nil, nil
	}
	return q.pool.cluster(compile.Cluster(d, p, q.mesh.Get(r, meshName(k.ref.Key.Mesh)), k.conf,
		q.plaintext.Get(r, k.ref.Key)),
		cause(k.causes, k.ref.Key)...)
}

func (q *queries) computeRoutes(r *graph.Reader, k routesKey) (*routesOf, error) {
	d := q.destination(r, k.ref.Key)
	p, ok := d.Port(k.ref.Section)
	if !ok || !p.Protocol.IsHTTP() {
		return &routesOf{}, nil
	}
	config, extra, cause := q.routing(r, k, d, p)
	res, err := q.pool.routes(config, cause...)
	return &routesOf{resource: res, extra: extra}, err
}

// routing is what policies make of requests to an HTTP port, the other backends that it needs, and
// where it came from.
func (q *queries) routing(r *graph.Reader, k routesKey, d *compile.Destination,
	p compile.Port) (ir.RouteConfig, []compile.Ref, []mesh.Key) {
	rules := policy.HTTPRoutes(q.policiesAbout(r, k.set, d.Key,
		func(k mesh.Kind) bool { return k == mesh.KindMeshHTTPRoute }),
		policy.Destination{Key: d.Key, Labels: d.Labels, Section: k.ref.Section})
	from := cause(k.causes, k.ref.Key)
	config, extra := compile.Routes(compile.RouteInput{
		Ref:    k.ref,
		Port:   p,
		Rules:  rules,
		Policy: k.conf,
		ForRoute: func(route mesh.Key) ir.RoutePolicy {
			conf, why := q.routePolicy(r, k, route, p)
			from = append(from, why...)
			return conf
		},
		Resolve: func(ref *meshv1.BackendRef, owner mesh.Key) (compile.Ref, bool) {
			return q.resolve(r, ref, owner, p)
		},
	})
	for _, rule := range rules {
		from = append(from, rule.Policy.Key)
		if q.hooks && rule.Policy.Labels[LabelTestHook] == HookRejected {
			// Envoy keeps the host header to itself.
			config.Routes[0].RequestHeaders.Remove = append(
				slices.Clone(config.Routes[0].RequestHeaders.Remove), "host")
		}
	}
	slices.SortFunc(from, mesh.Key.Compare)
	return config, extra, slices.Compact(from)
}

// routePolicy is what policies say about a MeshHTTPRoute to the destination of k.
func (q *queries) routePolicy(r *graph.Reader, k routesKey, route mesh.Key,
	p compile.Port) (ir.RoutePolicy, []mesh.Key) {
	if !q.policySummary.Get(r, k.set).Attached {
		return k.conf, nil
	}
	res := q.reads(r).policy(route, k.ref.Key)
	if res == nil {
		return k.conf, nil
	}
	return compile.RoutePolicy(q.policies(r, k.set, k.ref.Key, compile.IsOutboundConfig), res, p, k.conf)
}

// resolve finds the backend of a reference for requests. Ports that do not speak HTTP cannot take them.
func (q *queries) resolve(r *graph.Reader, ref *meshv1.BackendRef, owner mesh.Key,
	routed compile.Port) (compile.Ref, bool) {
	found, p, ok := q.backend(r, ref, owner, routed)
	return found, ok && p.Protocol.IsHTTP()
}

// backend finds the destination's port that a reference in a route means.
func (q *queries) backend(r *graph.Reader, ref *meshv1.BackendRef, owner mesh.Key,
	routed compile.Port) (compile.Ref, compile.Port, bool) {
	find := q.finder(r)
	k, section, ok := policy.ResolveBackend(policy.BackendQuery{
		Ref:           ref,
		From:          owner,
		Zone:          q.zone,
		RoutedPort:    routed.Number,
		RoutedSection: routed.Name,
	}, compile.Destinations{Reader: q.reads(r), Find: find})
	if !ok {
		return compile.Ref{}, compile.Port{}, false
	}
	p, ok := find(k).Port(section)
	return compile.Ref{Key: k, Section: p.Name}, p, ok
}

func (q *queries) keepRoutes(old, now *routesOf) (*routesOf, bool) {
	if old == nil || now == nil {
		return now, old != now
	}
	if sameResource(old.resource, now.resource) {
		if slices.Equal(old.extra, now.extra) {
			return old, false
		}
		now.resource = old.resource
	}
	return now, true
}

func (q *queries) computeListener(r *graph.Reader, k listenerKey) (*delta.Resource, error) {
	p, ok := q.destination(r, k.outbound.Ref.Key).Port(k.outbound.Ref.Section)
	if !ok {
		return nil, nil
	}
	l := compile.OutboundListener(k.outbound, p, k.conf)
	if backends, ok := k.backends.Get(); ok {
		l = compile.TCPListener(k.outbound, p, k.conf, backends)
	}
	return q.pool.listener(l,
		cause(k.causes, k.outbound.Ref.Key)...)
}

func (q *queries) finder(r *graph.Reader) compile.Lookup {
	return func(k mesh.Key) *compile.Destination { return q.destination(r, k) }
}

func (q *queries) computeAllOutbounds(r *graph.Reader, name meshName) (scope, error) {
	return internScope(compile.AllOutbounds(q.reads(r), string(name), q.finder(r),
		func(k mesh.Key) string { return q.vip.Get(r, k) })), nil
}

// computeDirectory indexes everything, once for all proxies that reach a part of it.
func (q *queries) computeDirectory(r *graph.Reader, name meshName) (*compile.Directory, error) {
	return compile.NewDirectory(q.allOutbounds.Get(r, name).Slice()), nil
}

// computeListed resolves a list of outbounds, once for all proxies that have it.
func (q *queries) computeListed(r *graph.Reader, k listedKey) (scope, error) {
	return internScope(compile.Listed(q.reads(r), k.at, k.outbounds.Slice(), q.finder(r))), nil
}

func (q *queries) computeScope(r *graph.Reader, k mesh.Key) (scope, error) {
	rd := q.reads(r)
	dp := rd.Spec(k)
	if dp == nil {
		return scope{}, graph.ErrKeep
	}
	if !compile.Redirects(dp) {
		at := mesh.Key{
			Kind:      k.Kind,
			Mesh:      k.Mesh,
			Zone:      k.Zone,
			Namespace: k.Namespace,
		}
		return q.listed.Get(r, listedKey{at, intern.ListOf(compile.Listings(dp))}), nil
	}
	out, limited := compile.Reachable(dp, q.directory.Get(r, meshName(k.Mesh)), q.finder(r))
	if !limited {
		return q.allOutbounds.Get(r, meshName(k.Mesh)), nil
	}
	return internScope(out), nil
}

// computeGroup is everything outbound of all proxies with the same policies and the same outbounds.
// What cannot be made of it is noted: a change of policies makes new keys, of which there is no
// last good value.
func (q *queries) computeGroup(r *graph.Reader, k groupKey) (*segment, error) {
	out := &segment{}
	add := func(typ delta.Type, name string, res *delta.Resource, ok bool) {
		if !ok {
			out.lacks = append(out.lacks, lack{typ, name})
		} else if res != nil {
			out.list = append(out.list, res)
		}
	}
	done := map[compile.Ref]bool{}
	caller, _ := k.tags.Get()
	shown := q.policySummary.Get(r, k.set).ShownTags
	destination := func(ref compile.Ref) {
		if done[ref] {
			return
		}
		done[ref] = true
		conf, ok := q.outboundConfig.Try(r, inSet{k.set, ref})
		if !ok {
			add(delta.TypeCluster, ref.KRI(), nil, false)
			add(delta.TypeEndpoint, ref.KRI(), nil, false)
			return
		}
		c, ok := q.cluster.Try(r, clusterKey{ref, conf.Cluster, conf.cluster})
		add(delta.TypeCluster, ref.KRI(), c, ok)
		if c != nil || !ok {
			ends, ok := q.endpoints.Try(r, q.endpointsFor(ref, conf, caller, shown))
			add(delta.TypeEndpoint, ref.KRI(), ends, ok)
		}
	}
	listener := func(k listenerKey) {
		l, ok := q.listener.Try(r, k)
		add(delta.TypeListener, k.outbound.Name, l, ok)
	}
	tcp := hasTCPRoutes(k.set)
	routed := map[compile.Ref]bool{}
	for _, o := range k.scope.Slice() {
		in := inSet{k.set, o.Ref}
		conf, ok := q.outboundConfig.Try(r, in)
		destination(o.Ref)
		if !ok {
			add(delta.TypeListener, o.Name, nil, false)
			add(delta.TypeRoute, o.Ref.KRI(), nil, false)
			continue
		}
		if tcp {
			c, ok := q.connections.Try(r, in)
			if !ok {
				add(delta.TypeListener, o.Name, nil, false)
				continue
			}
			if c != nil && c.backends != (ir.Shared[[]ir.Backend]{}) {
				listener(listenerKey{o, c.conf, c.backends, c.causes})
				for _, extra := range c.extra {
					destination(extra)
				}
				continue
			}
		}
		listener(listenerKey{outbound: o, conf: conf.Listener, causes: conf.listener})
		// A destination may be here already as the backend of another; its routes are not.
		if routed[o.Ref] {
			continue
		}
		routed[o.Ref] = true
		routes, ok := q.routes.Try(r, routesKey{in, conf.Route, conf.route})
		if !ok {
			add(delta.TypeRoute, o.Ref.KRI(), nil, false)
		}
		if routes != nil && routes.resource != nil {
			out.list = append(out.list, routes.resource)
			for _, extra := range routes.extra {
				destination(extra)
			}
		}
	}
	return out, nil
}
