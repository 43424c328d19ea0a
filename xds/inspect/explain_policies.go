package inspect

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// origin is the entry that set the first of the fields that a policy set, nil if none did: the
// default of the mesh applies. What a policy says of the rule's MeshHTTPRoute goes before what is
// said of the destination.
func (x *explanation) origin(kind mesh.Kind, about policy.Destination, rule *policy.HTTPRule,
	fields ...string) *adminv1.PolicyEntry {
	of := policy.OfKind(x.in.To, kind)
	if rule != nil {
		attached := policy.Destination{Key: rule.Policy.Key, Labels: rule.Policy.Labels}
		if _, ok := policy.ForRoute(of, attached); ok {
			about = attached
		}
	}
	for _, s := range policy.DestinationSettings(of, about) {
		if slices.ContainsFunc(fields, func(f string) bool {
			return s.Path == f || strings.HasPrefix(s.Path, f+".") || strings.HasPrefix(s.Path, f+"[")
		}) {
			return from(s.Origin, "to")
		}
	}
	return nil
}

// effects adds what policies and defaults do, each with the entry that set it.
func (x *explanation) effects(list []compile.Effect, about policy.Destination, rule *policy.HTTPRule) {
	for _, e := range list {
		x.step(e.Subject, x.origin(e.Kind, about, rule, e.Fields...), "%s", e.Text)
	}
}

// requestPolicies adds the policies for a request of the route.
func (x *explanation) requestPolicies(o xds.InspectedOutbound, r ir.Route) {
	q := compile.Request{Method: x.request.method, Fits: x.retried}
	x.effects(compile.RequestEffects(&r.RoutePolicy, q), o.About, ruleOf(o, r))
}

// retried evaluates one of the conditions on requests to be tried again; :method is the request's.
func (x *explanation) retried(m ir.ValueMatch) bool {
	switch m.Name {
	case ":method":
		return valueFits(m, x.request.method, true)
	case ":path":
		return valueFits(m, x.request.path, true)
	}
	value, there := x.request.headers[strings.ToLower(m.Name)]
	return valueFits(m, value, there)
}

// connectionPolicies adds the policies for connections of a port that is not HTTP.
func (x *explanation) connectionPolicies(o xds.InspectedOutbound) {
	x.effects(compile.ConnectionEffects(&o.Conf.Listener), o.About, nil)
}

// backend tells of one of the destinations that requests can end at.
func (x *explanation) backend(o xds.InspectedOutbound, b ir.Backend, total uint32) {
	part := ""
	if b.Weight != total {
		part = share(b.Weight, total) + " of the requests: "
	}
	c, ok := o.Clusters[b.Cluster]
	if !ok {
		x.problem("backend", nil, "%sthe backend is not there: answered 500", part)
		return
	}
	about := policy.Destination{Key: c.Ref.Key, Labels: labelsOf(x, c.Ref.Key), Section: c.Ref.Section}
	listed := zones(c.Endpoints)
	healthy, all := uint32(0), uint32(0)
	var where []string
	for _, z := range listed {
		healthy, all = healthy+z.Healthy, all+z.Total
		text := fmt.Sprintf("zone %s %d of %d healthy", z.Zone, z.Healthy, z.Total)
		if z.Priority > 0 {
			text += " (only when nearer ones lack healthy instances)"
		}
		where = append(where, text)
	}
	switch {
	case all == 0:
		x.problem("backend", nil, "%s%s has no instance: answered 503", part, b.Cluster)
		return
	case healthy == 0 && compile.FailsWithoutHealthy(&c.Conf.Cluster):
		x.problem("backend", nil, "%s%s has no healthy instance (%s): answered 503", part, b.Cluster,
			strings.Join(where, "; "))
		return
	case healthy == 0:
		x.problem("backend", nil,
			"%s%s has no healthy instance (%s); its unhealthy ones are tried all the same", part, b.Cluster,
			strings.Join(where, "; "))
	default:
		x.step("backend", nil, "%s%s: %s", part, b.Cluster, strings.Join(where, "; "))
	}
	x.effects(compile.ClusterEffects(&c.Conf.Cluster), about, nil)
	x.inbounds(c)
}

func labelsOf(x *explanation, k mesh.Key) map[string]string {
	if r, ok := x.view.Get(k); ok {
		return r.Labels
	}
	return nil
}

// atInbound is what callers meet at one port of one workload; equal ones are shown once.
type atInbound struct {
	steps []*adminv1.ExplainStep
	names []string
}

// inbounds adds the policies at the instances themselves. Those of this zone are known one by one;
// instances behind another zone's ingress are not.
func (x *explanation) inbounds(c xds.InspectedCluster) {
	var list []atInbound
	for _, e := range c.Endpoints {
		if e.Behind > 0 {
			x.step("zone ingress", nil,
				"zone %s, %s, for %d instances: the policies of their inbounds are known in that zone; ask "+
					"there", e.Zone, net.JoinHostPort(e.Address, strconv.FormatUint(uint64(e.Port), 10)),
				e.Behind)
			continue
		}
		name, steps := x.workload(c, e)
		at := slices.IndexFunc(list, func(d atInbound) bool { return sameSteps(d.steps, steps) })
		if at < 0 {
			at, list = len(list), append(list, atInbound{steps: steps})
		}
		list[at].names = append(list[at].names, name)
	}
	for _, d := range list {
		for _, s := range d.steps {
			s.Text = "at " + several(d.names) + ": " + s.Text
			x.out.Steps = append(x.out.Steps, s)
		}
	}
}

func sameSteps(a, b []*adminv1.ExplainStep) bool {
	return slices.EqualFunc(a, b, func(s, t *adminv1.ExplainStep) bool {
		return s.Subject == t.Subject && s.Text == t.Text && s.Problem == t.Problem
	})
}

func several(names []string) string {
	if len(names) <= 3 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:2], ", "), len(names)-2)
}

// workload finds whose the endpoint is, and what that workload's sidecar does to the request.
func (x *explanation) workload(c xds.InspectedCluster, e ir.Endpoint) (string, []*adminv1.ExplainStep) {
	address := net.JoinHostPort(e.Address, strconv.FormatUint(uint64(e.Port), 10))
	for dp := range x.view.List(mesh.KindDataplane, c.Ref.Key.Mesh) {
		for _, i := range compile.NewInstance(dp, nil).Inbounds {
			if i.Address != e.Address || i.Port != e.Port || dp.Key.Zone != x.zone {
				continue
			}
			in, err := x.static.Inspect(dp.Key)
			if err != nil || in == nil {
				return dp.Key.Name, []*adminv1.ExplainStep{{
					Subject: "instance",
					Text:    fmt.Sprintf("its configuration cannot be computed: %v", err),
					Problem: true,
				}}
			}
			at := slices.IndexFunc(in.Inbounds,
				func(j xds.InspectedInbound) bool { return j.Section == i.Section })
			return dp.Key.Name, x.inbound(c, in, in.Inbounds[at])
		}
	}
	return address, []*adminv1.ExplainStep{{
		Subject: "instance",
		Text:    "no Dataplane of this zone has the address",
	}}
}

func (x *explanation) inbound(c xds.InspectedCluster, in *xds.Inspection,
	i xds.InspectedInbound) []*adminv1.ExplainStep {
	q := x.request
	if c.TLS {
		q.uris, q.sni = policy.CertificateURIs(x.in.Proxy), compile.SNI(c.Ref)
	}
	var out []*adminv1.ExplainStep
	add := func(subject string, from *adminv1.PolicyEntry, problem bool, format string, args ...any) {
		out = append(out, &adminv1.ExplainStep{
			Subject: subject,
			Text:    fmt.Sprintf(format, args...),
			From:    from,
			Problem: problem,
		})
	}
	switch {
	case in.MTLS == "":
		add("permission", nil, false, "mesh mTLS is off: everybody may call")
	case !c.TLS && in.MTLS == "STRICT":
		add("permission", nil, true, "the connection is in clear, and the mesh's mTLS is STRICT: refused")
	case !c.TLS:
		add("permission", nil, false,
			"in clear, which the mesh's PERMISSIVE mTLS takes without asking who calls")
	default:
		ok, from := permission(q, i)
		verb := "the caller may call"
		if !ok {
			verb = "the caller may not call: refused (403, or a closed connection)"
			if from == nil {
				verb = "no MeshTrafficPermission allows the caller: refused (403, or a closed connection)"
			}
		}
		add("permission", from, !ok, "%s", verb)
		if !ok {
			return out
		}
	}
	arriving := compile.InboundRequest{HTTP: i.Protocol.IsHTTP(), Route: i.Conf.Route, Meets: q.meets}
	for _, c := range i.Conf.Callers {
		if len(q.uris) > 0 && q.callerFits(c.Matches) {
			arriving.Route = c.Route
			break
		}
	}
	for _, e := range compile.InboundEffects(i.Conf, arriving) {
		add(e.Subject, effectOrigin(q, i, e), e.Fatal, "%s", e.Text)
	}
	return out
}

// effectOrigin is the entry that an effect at an inbound comes from, nil if it is a default.
func effectOrigin(q request, i xds.InspectedInbound, e compile.Effect) *adminv1.PolicyEntry {
	if e.Policy != "" {
		entry := &adminv1.PolicyEntry{}
		for _, p := range i.Policies {
			if p.Key.KRI("") == e.Policy {
				entry.Policy = p.Key.Proto()
			}
		}
		return entry
	}
	for _, field := range e.Fields {
		if from := inboundOrigin(q, i, e.Kind, field); from != nil {
			return from
		}
	}
	return nil
}

// inboundOrigin is the entry that set a field, or one below it, for the caller; nil if none did.
func inboundOrigin(q request, i xds.InspectedInbound, kind mesh.Kind, field string) *adminv1.PolicyEntry {
	of := policy.OfKind(i.Policies, kind)
	in := policy.ForInbound(of)
	fields := in.CatchAll.Fields
	for _, c := range in.Conditioned {
		if q.identityFits(identityOf(c.Match)) {
			fields = c.Fields
			break
		}
	}
	for _, path := range sortedKeys(fields) {
		if path == field || strings.HasPrefix(path, field+".") {
			return from(fields[path], listName(of))
		}
	}
	return nil
}

// permission decides by the very table that the sidecar has, and finds the policy that decided.
func permission(q request, i xds.InspectedInbound) (bool, *adminv1.PolicyEntry) {
	ok, _ := q.admitted(i.Conf.Inbound.RBAC)
	p := policy.Permissions(policy.OfKind(i.Policies, mesh.KindMeshTrafficPermission))
	if p.HasRules {
		for _, l := range [][]policy.PermissionMatch{p.Deny, p.Allow} {
			for _, m := range l {
				if q.identityFits(identityOf(m.Match)) {
					return ok, from(m.Origin, "rules")
				}
			}
		}
		return ok, nil
	}
	if !ok {
		return false, deniedBy(policy.OfKind(i.Policies, mesh.KindMeshTrafficPermission))
	}
	for n, principal := range p.Principals {
		if n < len(i.Conf.Inbound.RBAC.Principals) && q.principalFits(i.Conf.Inbound.RBAC.Principals[n]) {
			return true, from(principal.Origin, "from")
		}
	}
	return ok, nil
}

// deniedBy is the one policy of the older form that there is; of several it cannot be told which
// withheld the permission.
func deniedBy(list []*mesh.Resource) *adminv1.PolicyEntry {
	if len(list) != 1 {
		return nil
	}
	return &adminv1.PolicyEntry{Policy: list[0].Key.Proto(), Entry: "from"}
}

func identityOf(m *meshv1.Match) ir.IdentityMatch {
	return ir.IdentityMatch{
		SpiffeID: m.GetSpiffeId().GetValue(),
		Prefix:   m.GetSpiffeId().GetType() == "Prefix",
		SNI:      m.GetSni().GetValue(),
	}
}
