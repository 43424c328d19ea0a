package inspect

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/policy"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Dataplane is the effective configuration of a Dataplane, with who said what.
func Dataplane(in *xds.Inspection, revision uint64) *adminv1.InspectDataplaneResponse {
	out := &adminv1.InspectDataplaneResponse{
		Key:      in.Proxy.Key.Proto(),
		Revision: revision,
		Mtls:     in.MTLS,
		Labels:   in.Proxy.Labels,
	}
	for _, i := range in.Inbounds {
		out.Inbounds = append(out.Inbounds, &adminv1.InspectedInbound{
			Section:  i.Section,
			Port:     i.Inbound.GetPort(),
			Protocol: string(i.Protocol),
			Tags:     i.Inbound.GetTags(),
			Kri:      in.Proxy.Key.KRI(i.Section),
			Policies: inboundPolicies(i.Policies),
		})
	}
	for _, o := range in.Outbounds {
		io := &adminv1.InspectedOutbound{
			Kri:         o.Ref.KRI(),
			Destination: o.Ref.Key.Proto(),
			Section:     o.Ref.Section,
			Port:        o.Port.Number,
			Protocol:    string(o.Port.Protocol),
			Listen:      net.JoinHostPort(o.Address, strconv.FormatUint(uint64(o.Outbound.Port), 10)),
			Policies:    outboundPolicies(in.To, o.About),
		}
		if len(o.Connections) > 0 {
			io.Protocol = string(ir.TCP)
			io.Routes = append(io.Routes, &adminv1.InspectedRoute{
				Match:  "every connection",
				Action: backendsText(o.Connections, "closed"),
				From:   tcpOrigin(in.To, o.About),
			})
		}
		for _, r := range o.Routes {
			io.Routes = append(io.Routes, route(in, o, r))
		}
		for _, name := range sortedKeys(o.Clusters) {
			io.Backends = append(io.Backends, &adminv1.InspectedBackend{
				Kri:   name,
				Zones: zones(o.Clusters[name].Endpoints),
			})
		}
		out.Outbounds = append(out.Outbounds, io)
	}
	markDefaults(in, out)
	return out
}

// markDefaults says of the entries which are of policies that the system made.
func markDefaults(in *xds.Inspection, out *adminv1.InspectDataplaneResponse) {
	made := map[mesh.Key]bool{}
	note := func(list []*mesh.Resource) {
		for _, p := range list {
			made[p.Key] = policy.HeadOf(p).Default
		}
	}
	mark := func(list []*adminv1.EffectivePolicy) {
		for _, e := range list {
			for _, s := range e.GetSettings() {
				s.From.Default = made[mesh.KeyFromProto(s.GetFrom().GetPolicy())]
				for _, o := range s.GetOverruled() {
					o.From.Default = made[mesh.KeyFromProto(o.GetFrom().GetPolicy())]
				}
			}
		}
	}
	note(in.To)
	for _, i := range in.Inbounds {
		note(i.Policies)
	}
	for _, i := range out.GetInbounds() {
		mark(i.GetPolicies())
	}
	for _, o := range out.GetOutbounds() {
		mark(o.GetPolicies())
		for _, r := range o.GetRoutes() {
			mark(r.GetPolicies())
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// policyKinds are the kinds of policies that keep says, in the table's order.
func policyKinds(keep func(*mesh.PolicyInfo) bool) []mesh.Kind {
	var out []mesh.Kind
	for _, info := range mesh.Kinds {
		if info.Policy != nil && keep(info.Policy) {
			out = append(out, info.Kind)
		}
	}
	return out
}

// outboundPolicies are those about calls, but for routes, which are shown as routes.
func outboundPolicies(list []*mesh.Resource, about policy.Destination) []*adminv1.EffectivePolicy {
	var out []*adminv1.EffectivePolicy
	for _, kind := range policyKinds(func(p *mesh.PolicyInfo) bool { return p.HasTo() }) {
		if kind == mesh.KindMeshHTTPRoute || kind == mesh.KindMeshTCPRoute {
			continue
		}
		of := policy.OfKind(list, kind)
		if s := policy.DestinationSettings(of, about); len(s) > 0 {
			out = append(out, &adminv1.EffectivePolicy{
				Kind:     string(kind),
				Settings: settings(s, policy.ForDestination(of, about).Conf, "to"),
			})
		}
	}
	return out
}

// inboundPolicies are those about callers, of every form that kinds have.
func inboundPolicies(list []*mesh.Resource) []*adminv1.EffectivePolicy {
	var out []*adminv1.EffectivePolicy
	for _, kind := range policyKinds(func(p *mesh.PolicyInfo) bool { return p.HasFrom() || p.HasRules }) {
		of := policy.OfKind(list, kind)
		switch kind {
		case mesh.KindMeshTrafficPermission:
			out = append(out, permissions(of)...)
			continue
		case mesh.KindMeshFaultInjection:
			out = append(out, faults(of)...)
			continue
		}
		in := policy.ForInbound(of)
		if s := policy.InboundSettings(of); len(s) > 0 {
			out = append(out, &adminv1.EffectivePolicy{
				Kind:     string(kind),
				Settings: settings(s, in.CatchAll.Conf, listName(of)),
			})
		}
		for _, c := range in.Conditioned {
			out = append(out, &adminv1.EffectivePolicy{
				Kind:     string(kind),
				Callers:  callersText(c.Match),
				Settings: plainSettings(c.Effective, "rules"),
			})
		}
	}
	return out
}

// listName is what the entries of inbound policies are called; of several forms the newer is named.
func listName(list []*mesh.Resource) string {
	for _, p := range list {
		if len(policy.RuleEntries(p)) > 0 {
			return "rules"
		}
	}
	return "from"
}

func permissions(list []*mesh.Resource) []*adminv1.EffectivePolicy {
	p := policy.Permissions(list)
	e := &adminv1.EffectivePolicy{Kind: string(mesh.KindMeshTrafficPermission)}
	add := func(field, value string, o policy.Origin, entry string) {
		e.Settings = append(e.Settings, &adminv1.Setting{Field: field, Value: value, From: from(o, entry)})
	}
	for _, l := range []struct {
		field string
		list  []policy.PermissionMatch
	}{{"deny", p.Deny}, {"allow", p.Allow}, {"allowWithShadowDeny", p.Shadow}} {
		for _, m := range l.list {
			add(l.field, callersText(m.Match), m.Origin, "rules")
		}
	}
	if !p.HasRules {
		for _, q := range p.Principals {
			add("allow", principalText(q), q.Origin, "from")
		}
	}
	if len(e.Settings) == 0 {
		return nil
	}
	return []*adminv1.EffectivePolicy{e}
}

func principalText(p policy.Principal) string {
	var parts []string
	for _, t := range p.All {
		parts = append(parts, t.Key+"="+t.Value)
	}
	for _, not := range p.Not {
		var tags []string
		for _, t := range not {
			tags = append(tags, t.Key+"="+t.Value)
		}
		parts = append(parts, "not "+strings.Join(tags, " with "))
	}
	if len(parts) == 0 {
		return "everybody"
	}
	return strings.Join(parts, ", ")
}

func faults(list []*mesh.Resource) []*adminv1.EffectivePolicy {
	set := policy.Faults(list)
	var out []*adminv1.EffectivePolicy
	add := func(callers string, conf *meshv1.MeshFaultInjection_Conf, o policy.Origin, entry string) {
		e := &adminv1.EffectivePolicy{Kind: string(mesh.KindMeshFaultInjection), Callers: callers}
		for i, h := range conf.GetHttp() {
			text, _ := json.Marshal(codec.EncodeMessage(h))
			e.Settings = append(e.Settings, &adminv1.Setting{
				Field: fmt.Sprintf("http[%d]", i),
				Value: string(text),
				From:  from(o, entry),
			})
		}
		out = append(out, e)
	}
	for _, r := range set.Rules {
		add(callersText(r.Match), r.Conf, r.Origin, "rules")
	}
	for _, f := range set.From {
		add(strings.TrimPrefix(principalText(f.Principal), "everybody"), f.Conf, f.Origin, "from")
	}
	return out
}

func from(o policy.Origin, list string) *adminv1.PolicyEntry {
	return &adminv1.PolicyEntry{Policy: o.Key.Proto(), Entry: fmt.Sprintf("%s[%d]", list, o.Rule)}
}

func settings(list []policy.Setting, conf proto.Message, entries string) []*adminv1.Setting {
	var out []*adminv1.Setting
	for _, s := range list {
		p := &adminv1.Setting{Field: s.Path, Value: leaf(conf, s.Path), From: from(s.Origin, entries)}
		for _, o := range s.Overruled {
			p.Overruled = append(p.Overruled, &adminv1.OverruledSetting{
				From:   from(o.Origin, entries),
				Value:  leaf(o.Conf, s.Path),
				Reason: o.Reason,
			})
		}
		out = append(out, p)
	}
	return out
}

// plainSettings are the leaves of a merged configuration whose losers are not told.
func plainSettings(e policy.Effective, entries string) []*adminv1.Setting {
	var out []*adminv1.Setting
	for _, path := range sortedKeys(e.Fields) {
		out = append(out, &adminv1.Setting{
			Field: path,
			Value: leaf(e.Conf, path),
			From:  from(e.Fields[path], entries),
		})
	}
	return out
}

// leaf is the value at a path as a document has it, in one line.
func leaf(conf proto.Message, path string) string {
	if conf == nil {
		return ""
	}
	var value any = codec.EncodeMessage(conf)
	rest, key, isMap := strings.Cut(strings.TrimSuffix(path, "]"), "[")
	for part := range strings.SplitSeq(rest, ".") {
		o, ok := value.(*codec.Object)
		if !ok {
			return ""
		}
		value, _ = o.Lookup(part)
	}
	if o, ok := value.(*codec.Object); ok && isMap {
		value, _ = o.Lookup(key)
	}
	if s, ok := value.(string); ok {
		return s
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}

// zones counts endpoints by zone and priority, nearest first.
func zones(list []ir.Endpoint) []*adminv1.ZoneInstances {
	var out []*adminv1.ZoneInstances
	for _, e := range list {
		at := slices.IndexFunc(out,
			func(z *adminv1.ZoneInstances) bool { return z.Zone == e.Zone && z.Priority == e.Priority })
		if at < 0 {
			at, out = len(out), append(out, &adminv1.ZoneInstances{Zone: e.Zone, Priority: e.Priority})
		}
		n := max(e.Behind, 1)
		out[at].Total += n
		if e.Health == ir.Healthy {
			out[at].Healthy += n
		}
	}
	slices.SortStableFunc(out,
		func(a, b *adminv1.ZoneInstances) int { return int(a.Priority) - int(b.Priority) })
	return out
}
