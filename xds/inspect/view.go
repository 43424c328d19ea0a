package inspect

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// ErrNotFound says that a document is about something that is not there.
var ErrNotFound = errors.New("not found")

// WithShadow is a view in which policies whose effect is shadow act as the others do.
func WithShadow(view replica.View) replica.View {
	var changes []store.Change
	for r := range view.All() {
		if info, ok := mesh.Lookup(r.Key.Kind); !ok || info.Policy == nil ||
			r.Labels[mesh.LabelEffect] != mesh.EffectShadow {
			continue
		}
		acting := *r
		acting.Labels = map[string]string{}
		for k, v := range r.Labels {
			if k != mesh.LabelEffect {
				acting.Labels[k] = v
			}
		}
		changes = append(changes, store.Change{Key: r.Key, Resource: &acting})
	}
	return view.With(view.Revision(), changes)
}

// View makes the JSON document of the REST API at a path below a Dataplane's.
func View(s *xds.Static, in *xds.Inspection, path []string) ([]byte, error) {
	doc, err := document(s, in, path)
	if err != nil {
		return nil, err
	}
	return doc.MarshalJSON()
}

func document(s *xds.Static, in *xds.Inspection, p []string) (*codec.Object, error) {
	switch {
	case len(p) == 1 && p[0] == "_rules":
		return rules(in), nil
	case len(p) == 1 && p[0] == "_layout":
		return layout(in), nil
	case len(p) == 1 && p[0] == "_policies":
		return object("policies", []any{}),
			nil // no kind that is here has neither "to" nor "from" nor "rules"
	case len(p) == 1 && p[0] == "_config":
		return config(s, in.Proxy.Key)
	case len(p) == 3 && p[0] == "_inbounds" && p[2] == "_policies":
		for _, i := range in.Inbounds {
			if in.Proxy.Key.KRI(i.Section) == p[1] {
				return inboundView(i), nil
			}
		}
	case len(p) >= 3 && p[0] == "_outbounds":
		for _, o := range in.Outbounds {
			if o.Ref.KRI() == p[1] {
				return outboundView(in, o, p[2:])
			}
		}
	}
	return nil, fmt.Errorf("%w: %s has nothing at %s", ErrNotFound, in.Proxy.Key.Name, strings.Join(p, "/"))
}

// object makes an object of alternating keys and values.
func object(pairs ...any) *codec.Object {
	o := &codec.Object{}
	for i := 0; i+1 < len(pairs); i += 2 {
		o.Set(pairs[i].(string), pairs[i+1])
	}
	return o
}

func number(n uint32) json.Number { return json.Number(strconv.FormatUint(uint64(n), 10)) }

func labelsObject(labels map[string]string) *codec.Object {
	o := &codec.Object{}
	for _, k := range sortedKeys(labels) {
		o.Set(k, labels[k])
	}
	return o
}

func meta(k mesh.Key, labels map[string]string) *codec.Object {
	return object("type", string(k.Kind), "mesh", k.Mesh, "name", k.Name, "labels", labelsObject(labels))
}

func confObject(m proto.Message) any {
	if m == nil {
		return &codec.Object{}
	}
	return codec.EncodeMessage(m)
}

// labelsIn are those of the policies that an inspection knows.
func labelsIn(list []*mesh.Resource, k mesh.Key) map[string]string {
	for _, p := range list {
		if p.Key == k {
			return p.Labels
		}
	}
	return nil
}

func ruleOrigins(list []*mesh.Resource, origins []policy.Origin) []any {
	out := []any{}
	for _, o := range origins {
		out = append(out, object("resourceMeta", meta(o.Key, labelsIn(list, o.Key)), "ruleIndex",
			number(uint32(o.Rule))))
	}
	return out
}

func kriOrigins(origins []policy.Origin) []any {
	out := []any{}
	for _, o := range origins {
		out = append(out, object("kri", o.Key.KRI("")))
	}
	return out
}

// rules is `_rules`: of each kind with something to say, what it says of every destination and every inbound.
func rules(in *xds.Inspection) *codec.Object {
	var all []any
	kinds := policyKinds(func(*mesh.PolicyInfo) bool { return true })
	slices.SortStableFunc(kinds, func(a, b mesh.Kind) int {
		ia, _ := mesh.Lookup(a)
		ib, _ := mesh.Lookup(b)
		return cmp.Compare(ia.Policy.Order, ib.Policy.Order)
	})
	for _, kind := range kinds {
		to, from, inbound := toRules(in, kind), fromRules(in, kind), inboundRules(in, kind)
		if len(to)+len(from)+len(inbound) == 0 {
			continue
		}
		all = append(all, object("type", string(kind), "toRules", []any{}, "toResourceRules", to, "fromRules",
			from, "inboundRules", inbound, "warnings", []any{}))
	}
	if all == nil {
		all = []any{}
	}
	return object("resource", meta(in.Proxy.Key, in.Proxy.Labels), "httpMatches", []any{}, "rules", all)
}

func toRules(in *xds.Inspection, kind mesh.Kind) []any {
	out := []any{}
	of := policy.OfKind(in.To, kind)
	for _, o := range in.Outbounds {
		e := policy.ForDestination(of, o.About)
		if len(e.Origins) == 0 {
			continue
		}
		conf := confObject(e.Conf)
		if kind == mesh.KindMeshHTTPRoute {
			conf = object("rules", httpRules(o))
		}
		out = append(out, object("conf", []any{conf}, "resourceMeta", meta(o.About.Key, o.About.Labels),
			"resourceSectionName", o.About.Section,
			"origin", ruleOrigins(in.To, originsOf(e))))
	}
	return out
}

func httpRules(o xds.InspectedOutbound) []any {
	out := []any{}
	for _, r := range o.Rules {
		out = append(out, object("kri", r.Policy.Key.KRI(fmt.Sprintf("rule_%d", r.Index)), "conf",
			confObject(r.Conf), "matches", matchObjects(r.Matches)))
	}
	return out
}

func matchObjects(list []*meshv1.MeshHTTPRoute_RouteMatch) []any {
	out := []any{}
	for _, m := range list {
		out = append(out, codec.EncodeMessage(m))
	}
	return out
}

func inboundObject(i xds.InspectedInbound) *codec.Object {
	o := object("port", number(i.Inbound.GetPort()), "tags", labelsObject(i.Inbound.GetTags()))
	if i.Inbound.GetName() != "" {
		o.Set("name", i.Inbound.GetName())
	}
	return o
}

// fromRules are the permissions of the older form: everything else of that form is shown as rules.
func fromRules(in *xds.Inspection, kind mesh.Kind) []any {
	out := []any{}
	if kind != mesh.KindMeshTrafficPermission {
		return out
	}
	for _, i := range in.Inbounds {
		of := policy.OfKind(i.Policies, kind)
		p := policy.Permissions(of)
		if !p.HasFrom || p.HasRules {
			continue
		}
		var list []any
		for _, q := range p.Principals {
			list = append(list,
				object("conf", object("action", "Allow"), "matchers", matchers(q), "origin",
					[]any{meta(q.Origin.Key, labelsIn(of, q.Origin.Key))}))
		}
		if list == nil { // no caller is allowed
			list = []any{object("conf", object("action", "Deny"), "matchers", []any{}, "origin", []any{})}
		}
		out = append(out, object("inbound", inboundObject(i), "rules", list))
	}
	return out
}

// matchers are a principal's tags. A denial of several tags together has no form there and is shown
// as its first tag.
func matchers(p policy.Principal) []any {
	out := []any{}
	add := func(t policy.Tag, not bool) {
		out = append(out, object("key", t.Key, "value", t.Value, "not", not))
	}
	for _, t := range p.All {
		add(t, false)
	}
	for _, not := range p.Not {
		add(not[0], true)
	}
	return out
}

// entriesOf are what policies of a kind say of an inbound, as conf, match and origins.
func entriesOf(i xds.InspectedInbound, kind mesh.Kind,
	each func(conf any, match *meshv1.Match, origins []policy.Origin)) {
	of := policy.OfKind(i.Policies, kind)
	switch kind {
	case mesh.KindMeshTrafficPermission:
		p := policy.Permissions(of)
		for _, l := range []struct {
			field string
			list  []policy.PermissionMatch
		}{{"deny", p.Deny}, {"allowWithShadowDeny", p.Shadow}, {"allow", p.Allow}} {
			for _, m := range l.list {
				each(object(l.field, []any{confObject(m.Match)}), nil, []policy.Origin{m.Origin})
			}
		}
	case mesh.KindMeshFaultInjection:
		for _, r := range policy.Faults(of).Rules {
			each(confObject(r.Conf), r.Match, []policy.Origin{r.Origin})
		}
	default:
		merged := policy.ForInbound(of)
		for _, c := range merged.Conditioned {
			each(confObject(c.Conf), c.Match, originsOf(c.Effective))
		}
		if len(merged.CatchAll.Origins) > 0 {
			each(confObject(merged.CatchAll.Conf), nil, originsOf(merged.CatchAll))
		}
	}
}

func inboundRules(in *xds.Inspection, kind mesh.Kind) []any {
	out := []any{}
	for _, i := range in.Inbounds {
		var list []any
		entriesOf(i, kind, func(conf any, match *meshv1.Match, origins []policy.Origin) {
			o := object("conf", []any{conf}, "origin", ruleOrigins(i.Policies, origins))
			if match != nil {
				o.Set("match", codec.EncodeMessage(match))
			}
			list = append(list, o)
		})
		if list != nil {
			out = append(out, object("inbound", inboundObject(i), "rules", list))
		}
	}
	return out
}

// layout is `_layout`.
func layout(in *xds.Inspection) *codec.Object {
	inbounds, outbounds := []any{}, []any{}
	for _, i := range in.Inbounds {
		inbounds = append(inbounds,
			object("kri", in.Proxy.Key.KRI(i.Section), "port", number(i.Inbound.GetPort()), "protocol",
				string(i.Protocol),
				"proxyResourceName", "self_inbound_dp_"+i.Section))
	}
	list := slices.SortedFunc(slices.Values(in.Outbounds),
		func(a, b xds.InspectedOutbound) int { return cmp.Compare(a.Ref.KRI(), b.Ref.KRI()) })
	for _, o := range list {
		outbounds = append(outbounds,
			object("kri", o.Ref.KRI(), "port", number(o.Port.Number), "protocol", string(o.Port.Protocol),
				"proxyResourceName", o.Name))
	}
	out := object("kri", in.Proxy.Key.KRI(""), "labels", labelsObject(in.Proxy.Labels), "inbounds", inbounds,
		"outbounds", outbounds, "listeners", []any{})
	for _, u := range policy.CertificateURIs(in.Proxy) {
		if in.MTLS != "" && strings.HasPrefix(u, "spiffe://") {
			out.Set("spiffeId", u)
			break
		}
	}
	return out
}

func inboundView(i xds.InspectedInbound) *codec.Object {
	list := []any{}
	for _, kind := range policyKinds(func(p *mesh.PolicyInfo) bool { return p.HasFrom() || p.HasRules }) {
		var rules []any
		var origins []policy.Origin
		entriesOf(i, kind, func(conf any, _ *meshv1.Match, from []policy.Origin) {
			rules = append(rules,
				object("kri", from[0].Key.KRI(fmt.Sprintf("rule_%d", from[0].Rule)), "conf", conf))
			origins = append(origins, from...)
		})
		p := policy.Permissions(policy.OfKind(i.Policies, kind))
		for _, q := range p.Principals { // empty for other kinds
			if kind == mesh.KindMeshTrafficPermission && !p.HasRules {
				rules = append(rules,
					object("kri", q.Origin.Key.KRI(fmt.Sprintf("rule_%d", q.Origin.Rule)), "conf",
						object("action", "Allow", "matchers", matchers(q))))
				origins = append(origins, q.Origin)
			}
		}
		if rules != nil {
			list = append(list,
				object("kind", string(kind), "origins",
					kriOrigins(originsOf(policy.Effective{Origins: origins})), "rules", rules))
		}
	}
	return object("policies", list)
}

func outboundView(in *xds.Inspection, o xds.InspectedOutbound, p []string) (*codec.Object, error) {
	switch {
	case len(p) == 1 && p[0] == "_policies":
		return object("policies",
			toPolicies(in, func(of []*mesh.Resource) policy.Effective {
				return policy.ForDestination(of, o.About)
			})), nil
	case len(p) == 1 && p[0] == "_routes":
		return object("routes", routesView(in, o)), nil
	case len(p) == 3 && p[0] == "_routes" && p[2] == "_policies":
		for i := range o.Rules {
			r := &o.Rules[i]
			if p[1] == r.Policy.Key.KRI("") || p[1] == r.Policy.Key.KRI(fmt.Sprintf("rule_%d", r.Index)) {
				about := policy.Destination{Key: r.Policy.Key, Labels: r.Policy.Labels}
				return object("policies", toPolicies(in, func(of []*mesh.Resource) policy.Effective {
					if e, attached := policy.ForRoute(of, about); attached {
						return e
					}
					return policy.ForDestination(of, o.About)
				})), nil
			}
		}
		return nil, fmt.Errorf("%w: %s has no route %s", ErrNotFound, o.Ref.KRI(), p[1])
	}
	return nil, fmt.Errorf("%w: there is no view %s of an outbound", ErrNotFound, strings.Join(p, "/"))
}

func toPolicies(in *xds.Inspection, merged func([]*mesh.Resource) policy.Effective) []any {
	out := []any{}
	for _, kind := range policyKinds(func(p *mesh.PolicyInfo) bool { return p.HasTo() }) {
		if kind == mesh.KindMeshHTTPRoute || kind == mesh.KindMeshTCPRoute {
			continue
		}
		if e := merged(policy.OfKind(in.To, kind)); len(e.Origins) > 0 {
			out = append(out,
				object("kind", string(kind), "conf", []any{confObject(e.Conf)}, "origins",
					kriOrigins(originsOf(e))))
		}
	}
	return out
}

func routesView(in *xds.Inspection, o xds.InspectedOutbound) []any {
	out := []any{}
	if len(o.Rules) > 0 {
		var origins []policy.Origin
		for _, r := range o.Rules {
			origins = append(origins, r.Origin)
		}
		out = append(out, object("kind", string(mesh.KindMeshHTTPRoute), "origins",
			kriOrigins(originsOf(policy.Effective{Origins: origins})), "rules", httpRules(o)))
	}
	if rule, ok := policy.TCPRoute(policy.OfKind(in.To, mesh.KindMeshTCPRoute), o.About); ok &&
		len(o.Connections) > 0 {
		refs := []any{}
		for _, r := range rule.BackendRefs {
			refs = append(refs, codec.EncodeMessage(r))
		}
		out = append(out, object("kind", string(mesh.KindMeshTCPRoute), "origins",
			[]any{object("kri", rule.Policy.Key.KRI(""))},
			"rules", []any{object("kri", rule.Policy.Key.KRI("rule_0"), "conf", object("backendRefs", refs),
				"matches", []any{})}))
	}
	return out
}

// config is `_config`: what the control plane would send. Certificates and keys are not in it.
func config(s *xds.Static, proxy mesh.Key) (*codec.Object, error) {
	table, _ := s.Table(proxy)
	byType := &codec.Object{}
	for _, typ := range []delta.Type{delta.TypeCluster, delta.TypeEndpoint, delta.TypeListener,
		delta.TypeRoute} {
		resources := map[string]any{}
		for r := range table.All(typ) {
			m, err := (&anypb.Any{TypeUrl: typ.URL(), Value: r.Body}).UnmarshalNew()
			if err != nil {
				return nil, fmt.Errorf("resource %s cannot be read back: %w", r.Name, err)
			}
			text, err := protojson.Marshal(m)
			if err != nil {
				return nil, fmt.Errorf("resource %s cannot be written as JSON: %w", r.Name, err)
			}
			resources[r.Name] = json.RawMessage(text)
		}
		of := &codec.Object{}
		for _, name := range sortedKeys(resources) {
			of.Set(name, resources[name])
		}
		byType.Set(typ.URL(), of)
	}
	return object("xds", byType), nil
}
