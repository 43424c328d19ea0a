package inspect

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

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
	of := ofKind(x.in.To, kind)
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

// limit is a duration that may be none.
func limit(d time.Duration) string {
	if d == 0 {
		return "no limit"
	}
	return d.String()
}

// requestPolicies adds the policies for a request of the route.
func (x *explanation) requestPolicies(o xds.InspectedOutbound, r ir.Route) {
	rule := ruleOf(o, r)
	x.step("timeout", x.origin(mesh.KindMeshTimeout, o.About, rule, "http.requestTimeout"),
		"%s for the whole request, tries and pauses included",
		limit(r.Timeouts.Request))
	x.step("timeout", x.origin(mesh.KindMeshTimeout, o.About, rule, "http.streamIdleTimeout"),
		"%s without a byte in either direction", limit(r.Timeouts.StreamIdle))
	retry, ok := r.Retry.Get()
	if !ok {
		x.step("retry", x.origin(mesh.KindMeshRetry, o.About, rule, "http", "grpc"),
			"a request that failed is not tried again")
	} else {
		if len(retry.Requests) > 0 && !slices.ContainsFunc(retry.Requests, x.retried) {
			x.step("retry", x.origin(mesh.KindMeshRetry, o.About, rule, "http", "grpc"),
				"requests such as this one (%s) are not tried again", x.request.method)
		} else {
			x.step("retry", x.origin(mesh.KindMeshRetry, o.About, rule, "http", "grpc"), "%s",
				retryText(retry))
		}
	}
	if hash, ok := r.Hash.Get(); ok && len(hash) > 0 {
		x.step("balancing", x.origin(mesh.KindMeshLoadBalancingStrategy, o.About, rule, "loadBalancer",
			"hashPolicies"), "the instance is chosen by %s", hashText(hash))
	}
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

func retryText(r ir.Retry) string {
	on := slices.Clone(r.On)
	for _, c := range r.Codes {
		on = append(on, strconv.FormatUint(uint64(c), 10))
	}
	text := fmt.Sprintf("up to %d more tries after %s", r.Count, strings.Join(on, ", "))
	if r.PerTry > 0 {
		text += fmt.Sprintf(", %s for each", r.PerTry)
	}
	if r.Base > 0 {
		text += fmt.Sprintf(", pauses of %s growing to %s", r.Base, r.Max)
	}
	if r.OtherHosts {
		text += ", at instances that it has not tried"
	}
	return text
}

func hashText(list []ir.HashPolicy) string {
	var parts []string
	for _, h := range list {
		switch h.Source {
		case ir.HashHeader:
			parts = append(parts, "header "+h.Name)
		case ir.HashCookie:
			parts = append(parts, "cookie "+h.Name)
		case ir.HashSourceIP:
			parts = append(parts, "the caller's address")
		case ir.HashQuery:
			parts = append(parts, "query parameter "+h.Name)
		case ir.HashFilterState:
			parts = append(parts, "filter state "+h.Name)
		}
	}
	return "the hash of " + strings.Join(parts, ", ")
}

// connectionPolicies adds the policies for connections of a port that is not HTTP.
func (x *explanation) connectionPolicies(o xds.InspectedOutbound) {
	x.step("timeout", x.origin(mesh.KindMeshTimeout, o.About, nil, "idleTimeout"),
		"%s without a byte in either direction", limit(o.Conf.Listener.Idle))
	if n := o.Conf.Listener.ConnectAttempts; n > 1 {
		x.step("retry", x.origin(mesh.KindMeshRetry, o.About, nil, "tcp"),
			"up to %d instances are tried for a connection", n)
	}
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
	case healthy == 0 && c.Conf.Cluster.FailOnPanic:
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
	x.clusterPolicies(c, about)
	x.inbounds(c)
}

func labelsOf(x *explanation, k mesh.Key) map[string]string {
	if r, ok := x.view.Get(k); ok {
		return r.Labels
	}
	return nil
}

var algorithms = map[ir.Algorithm]string{ir.RoundRobin: "in turn",
	ir.LeastRequest: "by the fewest requests in flight", ir.Random: "at random",
	ir.RingHash: "by a hash ring", ir.Maglev: "by a Maglev table"}

// clusterPolicies tells what the sidecar does towards a destination.
func (x *explanation) clusterPolicies(c xds.InspectedCluster, about policy.Destination) {
	conf := c.Conf.Cluster
	x.step("balancing", x.origin(mesh.KindMeshLoadBalancingStrategy, about, nil, "loadBalancer"),
		"instances are chosen %s", algorithms[conf.Balancer.Algorithm])
	x.step("timeout", x.origin(mesh.KindMeshTimeout, about, nil, "connectionTimeout"),
		"%s to connect to an instance", limit(conf.Timeouts.Connect))
	var limits []string
	for _, l := range []struct {
		n    uint32
		what string
	}{{conf.Limits.Connections, "connections"}, {conf.Limits.Pending, "waiting requests"},
		{conf.Limits.Requests, "requests in flight"}, {conf.Limits.Retries, "retries in flight"}} {
		if l.n > 0 {
			limits = append(limits, fmt.Sprintf("%d %s", l.n, l.what))
		}
	}
	if len(limits) > 0 {
		x.step("limit", x.origin(mesh.KindMeshCircuitBreaker, about, nil, "connectionLimits"),
			"this sidecar has at most %s; more are answered 503", strings.Join(limits, ", "))
	}
	if out := conf.Outlier; out.Enabled {
		x.step("ejection", x.origin(mesh.KindMeshCircuitBreaker, about, nil, "outlierDetection"), "%s",
			outlierText(out))
	}
	if check, ok := conf.HealthCheck.Get(); ok {
		x.step("health check",
			x.origin(mesh.KindMeshHealthCheck, about, nil, "interval", "http", "tcp", "grpc"),
			"the sidecar asks every instance each %s (%s)",
			check.Interval, check.Protocol)
	}
}

func outlierText(o ir.Outlier) string {
	var by []string
	add := func(n uint32, what string) {
		if n > 0 {
			by = append(by, fmt.Sprintf("%d %s in a row", n, what))
		}
	}
	add(o.TotalFailures, "errors")
	add(o.GatewayFailures, "gateway errors")
	add(o.LocalFailures, "failures to connect")
	if o.SuccessRate.Enabled {
		by = append(by, "a success rate far below the others'")
	}
	if o.FailurePercentage.Enabled {
		by = append(by, fmt.Sprintf("%d %% of failures", o.FailurePercentage.Threshold))
	}
	return fmt.Sprintf("an instance is left out for %s after %s", o.BaseEjection, strings.Join(by, " or "))
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
	if i.Protocol.IsHTTP() {
		inboundRequest(q, i, add)
	} else if l := i.Conf.Limits.Connections; l != nil {
		add("rate limit", inboundOrigin(q, i, mesh.KindMeshRateLimit, "local.tcp"), false,
			"%d connections each %s, of all callers together", l.Num, l.Interval)
	}
	return out
}

func inboundRequest(q request, i xds.InspectedInbound,
	add func(string, *adminv1.PolicyEntry, bool, string, ...any)) {
	route := i.Conf.Route
	for _, c := range i.Conf.Callers {
		if len(q.uris) > 0 && q.callerFits(c.Matches) {
			route = c.Route
			break
		}
	}
	for _, f := range i.Conf.Faults {
		if !q.meets(f) {
			continue
		}
		entry := &adminv1.PolicyEntry{}
		for _, p := range i.Policies {
			if p.Key.KRI("") == f.Name {
				entry.Policy = p.Key.Proto()
			}
		}
		if f.Abort > 0 {
			add("fault", entry, f.Abort == 1_000_000, "%s of the requests are answered %d on purpose",
				share(f.Abort, 1_000_000), f.AbortStatus)
		}
		if f.Delay > 0 {
			add("fault", entry, false, "%s of the requests wait %s on purpose", share(f.Delay, 1_000_000),
				f.DelayBy)
		}
		if f.Slow > 0 {
			add("fault", entry, false, "%s of the answers come at %d KiB/s on purpose",
				share(f.Slow, 1_000_000), f.SlowTo)
		}
	}
	limited, ok := route.Limit.Get()
	switch {
	case ok && limited.Num > 0:
		add("rate limit", inboundOrigin(q, i, mesh.KindMeshRateLimit, "local.http"), false,
			"%s, of these callers together", limitText(limited))
	case !ok && i.Conf.Limits.Requests != nil && i.Conf.Limits.Requests.Num > 0:
		add("rate limit", inboundOrigin(q, i, mesh.KindMeshRateLimit, "local.http"), false,
			"%s, of all callers together", limitText(*i.Conf.Limits.Requests))
	}
	add("timeout", inboundOrigin(q, i, mesh.KindMeshTimeout, "http.requestTimeout"), false,
		"%s for the application's whole answer", limit(route.Timeouts.Request))
}

func limitText(l ir.RequestLimit) string {
	status := l.Status
	if status == 0 {
		status = 429
	}
	return fmt.Sprintf("%d requests each %s, more are answered %d", l.Num, l.Interval, status)
}

// inboundOrigin is the entry that set a field, or one below it, for the caller; nil if none did.
func inboundOrigin(q request, i xds.InspectedInbound, kind mesh.Kind, field string) *adminv1.PolicyEntry {
	of := ofKind(i.Policies, kind)
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
	ok, _ := q.admitted(i.Conf.RBAC)
	p := policy.Permissions(ofKind(i.Policies, mesh.KindMeshTrafficPermission))
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
		return false, deniedBy(ofKind(i.Policies, mesh.KindMeshTrafficPermission))
	}
	for n, principal := range p.Principals {
		if n < len(i.Conf.RBAC.Principals) && q.principalFits(i.Conf.RBAC.Principals[n]) {
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
