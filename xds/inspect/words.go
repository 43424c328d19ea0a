package inspect

import (
	"fmt"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// callersText is a match of callers; empty is all callers.
func callersText(m *meshv1.Match) string {
	var parts []string
	if s := m.GetSpiffeId(); s != nil {
		text := s.GetValue()
		if s.GetType() == "Prefix" {
			text += " and below"
		}
		parts = append(parts, text)
	}
	if s := m.GetSni(); s != nil {
		parts = append(parts, "server name "+s.GetValue())
	}
	return strings.Join(parts, " with ")
}

func matchText(m ir.Match) string {
	var parts []string
	switch {
	case m.PathType == ir.PathExact:
		parts = append(parts, "path "+m.Path)
	case m.PathType == ir.PathRegex:
		parts = append(parts, "path matches "+m.Path)
	case m.Path != "/":
		parts = append(parts, "path below "+m.Path)
	}
	if m.Method != "" {
		parts = append(parts, "method "+m.Method)
	}
	for _, h := range m.Headers {
		parts = append(parts, "header "+valueText(h))
	}
	for _, q := range m.Query {
		parts = append(parts, "query parameter "+valueText(q))
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func valueText(v ir.ValueMatch) string {
	switch v.Kind {
	case ir.ValuePresent:
		return v.Name + " is there"
	case ir.ValueAbsent:
		return v.Name + " is not there"
	case ir.ValueRegex:
		return v.Name + " matches " + v.Value
	case ir.ValuePrefix:
		return v.Name + " begins with " + v.Value
	}
	return v.Name + ": " + v.Value
}

// backendsText names backends with their shares; missing is what happens to a share without a backend.
func backendsText(list []ir.Backend, missing string) string {
	total := uint32(0)
	for _, b := range list {
		total += b.Weight
	}
	var parts []string
	for _, b := range list {
		name := b.Cluster
		if name == "" {
			name = missing
		}
		if len(list) == 1 {
			return name
		}
		parts = append(parts, fmt.Sprintf("%s %s", share(b.Weight, total), name))
	}
	return strings.Join(parts, ", ")
}

func share(part, of uint32) string {
	if of == 0 {
		return "0 %"
	}
	return strings.TrimSuffix(strings.TrimSuffix(fmt.Sprintf("%.1f", 100*float64(part)/float64(of)), "0"),
		".") + " %"
}

// changesText is what a route does to a request besides sending it on.
func changesText(r ir.Route) []string {
	var out []string
	edits := func(what string, e ir.HeaderEdit) {
		for _, h := range e.Set {
			out = append(out, fmt.Sprintf("sets the %s header %s: %s", what, h.Name, h.Value))
		}
		for _, h := range e.Add {
			out = append(out, fmt.Sprintf("adds the %s header %s: %s", what, h.Name, h.Value))
		}
		for _, h := range e.Remove {
			out = append(out, fmt.Sprintf("removes the %s header %s", what, h))
		}
	}
	edits("request", r.RequestHeaders)
	edits("response", r.ResponseHeaders)
	if r.HostRewrite != "" {
		out = append(out, "rewrites the host to "+r.HostRewrite)
	}
	if r.ReplacePath != nil {
		out = append(out, "replaces the path by "+*r.ReplacePath)
	}
	if r.ReplacePrefix != nil {
		out = append(out, fmt.Sprintf("replaces %s at the path's beginning by %s", r.Match.Path,
			*r.ReplacePrefix))
	}
	for _, m := range r.Mirrors {
		out = append(out, fmt.Sprintf("copies %s of the requests to %s", share(m.Millionths, 1_000_000),
			m.Cluster))
	}
	return out
}

func actionText(r ir.Route) string {
	var first string
	switch {
	case r.Redirect != nil:
		first = fmt.Sprintf("redirects with %d%s", r.Redirect.Status, redirectText(r))
	case r.Status != 0:
		first = fmt.Sprintf("answers %d: no backend is there", r.Status)
	default:
		first = backendsText(r.Backends, "answered 500, for the backend is not there")
	}
	return strings.Join(append([]string{first}, changesText(r)...), "; ")
}

func redirectText(r ir.Route) string {
	var parts []string
	if r.Redirect.Scheme != "" {
		parts = append(parts, "scheme "+r.Redirect.Scheme)
	}
	if r.Redirect.Host != "" {
		parts = append(parts, "host "+r.Redirect.Host)
	}
	if r.Redirect.Port != 0 {
		parts = append(parts, fmt.Sprintf("port %d", r.Redirect.Port))
	}
	if len(parts) == 0 {
		return ""
	}
	return " to " + strings.Join(parts, ", ")
}

// route is one of an outbound's, with the policies attached to its MeshHTTPRoute.
func route(in *xds.Inspection, o xds.InspectedOutbound, r ir.Route) *adminv1.InspectedRoute {
	out := &adminv1.InspectedRoute{Match: matchText(r.Match), Action: actionText(r)}
	rule := ruleOf(o, r)
	if rule == nil {
		return out
	}
	out.From = &adminv1.PolicyEntry{
		Policy: rule.Policy.Key.Proto(),
		Entry:  fmt.Sprintf("to[%d].rules[%d]", rule.Origin.Rule, rule.Index),
	}
	about := policy.Destination{Key: rule.Policy.Key, Labels: rule.Policy.Labels}
	for _, kind := range policyKinds(func(p *mesh.PolicyInfo) bool { return p.HasTo() }) {
		of := policy.OfKind(in.To, kind)
		if e, attached := policy.ForRoute(of, about); attached {
			out.Policies = append(out.Policies, &adminv1.EffectivePolicy{
				Kind:     string(kind),
				Settings: settings(policy.DestinationSettings(of, about), e.Conf, "to"),
			})
		}
	}
	return out
}

// ruleOf is the rule that a route comes from, nil for the one that exists without a policy.
func ruleOf(o xds.InspectedOutbound, r ir.Route) *policy.HTTPRule {
	for i := range o.Rules {
		if rule := &o.Rules[i]; r.Name != "" &&
			r.Name == rule.Policy.Key.KRI(fmt.Sprintf("rule_%d", rule.Index)) {
			return rule
		}
	}
	return nil
}

func tcpOrigin(list []*mesh.Resource, about policy.Destination) *adminv1.PolicyEntry {
	rule, ok := policy.TCPRoute(policy.OfKind(list, mesh.KindMeshTCPRoute), about)
	if !ok {
		return nil
	}
	return &adminv1.PolicyEntry{Policy: rule.Policy.Key.Proto(), Entry: "to"}
}
