package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func newDescribe() *cobra.Command {
	s := &selection{}
	var output string
	var size uint32
	cmd := &cobra.Command{
		Use: "describe KIND NAME",
		Short: "Show one resource and its effect: of a proxy the effective policies, of a policy the " +
			"proxies it selects",
		Example: `  meridian describe meshhttproute canary
  meridian describe dataplane web-1
  meridian describe dataplane web-1 -o json
  meridian describe zone us-east`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := kindOf(args[0])
			if err != nil {
				return err
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %q: must be text or json", output)
			}
			c, done, err := s.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := s.call(cmd)
			defer cancel()
			r, err := c.Get(ctx, s.key(info, args[1]))
			if err != nil {
				return notFound(err, info, args[1], s)
			}
			if output == "json" {
				return describeJSON(ctx, cmd, c, r, size)
			}
			return describe(ctx, cmd, c, info, r, size)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text",
		"text or json; json is what is computed, without the document")
	cmd.Flags().Uint32Var(&size, "size", 0, "proxies of a policy to list in each zone (default 20)")
	s.flags(cmd)
	return cmd
}

// describeJSON prints the answer of the control plane, in the JSON form of its protocol buffers.
func describeJSON(ctx context.Context, cmd *cobra.Command, c *client.Client, r *mesh.Resource,
	size uint32) error {
	info, _ := mesh.Lookup(r.Key.Kind)
	var got proto.Message
	var err error
	switch {
	case r.Key.Kind == mesh.KindDataplane:
		got, err = c.InspectDataplane(ctx, r.Key)
	case info.Policy != nil:
		got, err = c.InspectPolicy(ctx, r.Key, size)
	default:
		return fmt.Errorf("nothing is computed for a %s; show its document with: meridian get %s %s -o json",
			info.Kind, strings.ToLower(string(info.Kind)), r.Key.Name)
	}
	if err != nil {
		return err
	}
	return printMessage(cmd, got)
}

func describe(ctx context.Context, cmd *cobra.Command, c *client.Client, info *mesh.KindInfo,
	r *mesh.Resource, size uint32) error {
	say(cmd, "%s\n", title(r.Key))
	if kri := r.Key.KRI(""); kri != "" {
		say(cmd, "kri: %s\n", kri)
	}
	say(cmd, "revision: %d (status %d), generation %d, changed %s ago\n\n", r.Revision, r.StatusRevision,
		r.Generation, age(r.Modified))
	data, err := codec.EncodeYAML(r)
	if err != nil {
		return err
	}
	say(cmd, "%s\n", strings.TrimRight(string(data), "\n"))
	describeDelivery(cmd, r)
	if info.Policy != nil {
		got, err := c.InspectPolicy(ctx, r.Key, size)
		if err != nil {
			say(cmd, "\nProxies: unknown (%v)\n", err)
			return nil
		}
		describePolicy(cmd, got)
	}
	if info.Kind == mesh.KindDataplane || info.Kind == mesh.KindZoneIngress {
		insight, err := c.Get(ctx, mesh.InsightKey(r.Key))
		if err != nil {
			say(cmd, "\nInsight: none (%v)\n", err)
		} else {
			describeInsight(cmd, mesh.Spec[*meshv1.ProxyInsight](insight))
		}
		describeProxyDelivery(ctx, cmd, c, r.Key)
	}
	if info.Kind == mesh.KindDataplane {
		got, err := c.InspectDataplane(ctx, r.Key)
		if err != nil {
			say(cmd, "\nPolicies: unknown (%v)\n", err)
			return nil
		}
		describePolicies(cmd, got)
	}
	return nil
}

func describePolicy(cmd *cobra.Command, p *adminv1.InspectPolicyResponse) {
	say(cmd, "\nProxies:\n")
	for _, z := range p.GetZones() {
		say(cmd, "  zone %s: %d of %d\n", z.GetZone(), z.GetSelected(), z.GetDataplanes())
		for _, e := range z.GetEffects() {
			var at []string
			for _, in := range e.GetInbounds() {
				at = append(at, "inbound "+in)
			}
			at = append(at, e.GetOutbounds()...)
			if len(at) == 0 {
				at = []string{"selected, but overruled everywhere: describe the Dataplane to see by which " +
					"policies"}
			}
			say(cmd, "    %s: %s\n", e.GetKey().GetName(), strings.Join(at, ", "))
		}
		if rest := int(z.GetSelected()) - len(z.GetEffects()); rest > 0 {
			say(cmd, "    and %d more (--size shows more)\n", rest)
		}
	}
	if len(p.GetZones()) == 0 {
		say(cmd, "  no zone responds\n")
	}
	for _, w := range p.GetWarnings() {
		say(cmd, "  %s\n", w)
	}
	if len(p.GetInert()) > 0 {
		say(cmd, "\nWithout effect as things are:\n")
	}
	for _, w := range p.GetInert() {
		say(cmd, "  %s\n", w)
	}
}

// describePolicies prints the effective policies. What comes from the defaults of the mesh alone is
// named, not shown: -o json has it.
func describePolicies(cmd *cobra.Command, d *adminv1.InspectDataplaneResponse) {
	mtls := d.GetMtls()
	if mtls == "" {
		mtls = "off"
	}
	say(cmd, "\nPolicies (mesh mTLS: %s):\n", mtls)
	for _, in := range d.GetInbounds() {
		say(cmd, "  Inbound %s, port %d (%s)\n", in.GetSection(), in.GetPort(), in.GetProtocol())
		describeEffective(cmd, "    ", in.GetPolicies())
	}
	var silent []string
	for _, out := range d.GetOutbounds() {
		plain := len(out.GetRoutes()) == 0 || len(out.GetRoutes()) == 1 && out.GetRoutes()[0].GetFrom() == nil
		if plain && !slices.ContainsFunc(out.GetPolicies(), userSet) {
			silent = append(silent, out.GetKri())
			continue
		}
		say(cmd, "  Outbound %s, port %d (%s), at %s\n", out.GetKri(), out.GetPort(), out.GetProtocol(),
			out.GetListen())
		for _, r := range out.GetRoutes() {
			say(cmd, "    %s -> %s%s\n", r.GetMatch(), r.GetAction(), setBy(r.GetFrom()))
			describeEffective(cmd, "      ", r.GetPolicies())
		}
		for _, b := range out.GetBackends() {
			var zones []string
			for _, z := range b.GetZones() {
				zones = append(zones, fmt.Sprintf("%s %d/%d", z.GetZone(), z.GetHealthy(), z.GetTotal()))
			}
			if len(zones) == 0 {
				zones = []string{"none"}
			}
			say(cmd, "    instances of %s: %s\n", b.GetKri(), strings.Join(zones, ", "))
		}
		describeEffective(cmd, "    ", out.GetPolicies())
	}
	if len(silent) > 0 {
		slices.Sort(silent)
		say(cmd, "  Outbounds with the defaults of the mesh alone: %s\n", strings.Join(silent, ", "))
	}
}

func describeEffective(cmd *cobra.Command, indent string, list []*adminv1.EffectivePolicy) {
	var defaults []string
	for _, e := range list {
		if !slices.ContainsFunc(e.GetSettings(),
			func(s *adminv1.Setting) bool { return !s.GetFrom().GetDefault() || len(s.GetOverruled()) > 0 }) {
			defaults = append(defaults, e.GetKind())
			continue
		}
		who := ""
		if e.GetCallers() != "" {
			who = " for " + e.GetCallers()
		}
		say(cmd, "%s%s%s\n", indent, e.GetKind(), who)
		for _, s := range e.GetSettings() {
			value := s.GetValue()
			if value == "" {
				value = "every caller"
			}
			say(cmd, "%s  %s: %s%s\n", indent, s.GetField(), value, setBy(s.GetFrom()))
			for _, o := range s.GetOverruled() {
				say(cmd, "%s    not %s%s: %s\n", indent, o.GetValue(), setBy(o.GetFrom()), o.GetReason())
			}
		}
	}
	if len(defaults) > 0 {
		say(cmd, "%sdefaults of the mesh alone: %s\n", indent, strings.Join(defaults, ", "))
	}
}

// userSet reports whether a policy that a user wrote sets anything.
func userSet(e *adminv1.EffectivePolicy) bool {
	return slices.ContainsFunc(e.GetSettings(),
		func(s *adminv1.Setting) bool { return !s.GetFrom().GetDefault() })
}

// setBy is "  (MeshTimeout slow, to[0])".
func setBy(p *adminv1.PolicyEntry) string {
	if p == nil {
		return ""
	}
	text := fmt.Sprintf("  (%s %s", p.GetPolicy().GetKind(), p.GetPolicy().GetName())
	if z := p.GetPolicy().GetZone(); z != "" {
		text += " of zone " + z
	}
	if p.GetEntry() != "" {
		text += ", " + p.GetEntry()
	}
	return text + ")"
}

func describeDelivery(cmd *cobra.Command, r *mesh.Resource) {
	var d *meshv1.DeliveryStatus
	switch s := r.Status.(type) {
	case *meshv1.DeliveryStatus:
		d = s
	case interface{ GetDelivery() *meshv1.DeliveryStatus }:
		d = s.GetDelivery()
	}
	info, _ := mesh.Lookup(r.Key.Kind)
	if d == nil && info.Policy == nil {
		return
	}
	say(cmd, "\nDelivery:\n")
	for _, c := range d.GetConditions() {
		say(cmd, "  %s=%s %s %s\n", c.GetType(), c.GetStatus(), c.GetReason(), c.GetMessage())
	}
	if len(d.GetRejections()) == 0 {
		say(cmd, "  no zone reports a problem\n")
	}
	last := ""
	for _, r := range d.GetRejections() {
		what := "Nacked"
		if r.GetStage() == meshv1.Rejection_STAGE_STORE {
			what = "Refused"
		}
		if r.GetField() != "" {
			what += " at " + r.GetField()
		}
		if head := fmt.Sprintf("  zone %s: %s: %s\n", r.GetZone(), what, r.GetReason()); head != last {
			say(cmd, "%s", head) // one for all its proxies, which follow each other
			last = head
		}
		if r.GetProxy() != nil {
			say(cmd, "    by %s\n", mesh.KeyFromProto(r.GetProxy()))
		}
	}
}

func describeInsight(cmd *cobra.Command, p *meshv1.ProxyInsight) {
	say(cmd, "\nInsight:\n  state: %s\n", p.GetState())
	if p.GetConnected() != nil {
		say(cmd, "  connected: %s ago, at control plane instance %s\n", age(p.GetConnected().AsTime()),
			orDash(p.GetInstance()))
	}
	if p.GetDisconnected() != nil && p.GetState() != "Online" {
		say(cmd, "  disconnected: %s ago\n", age(p.GetDisconnected().AsTime()))
	}
	if p.GetLeaseEnd() != nil {
		say(cmd, "  removed at: %s, unless it comes back\n", p.GetLeaseEnd().AsTime().Format("15:04:05"))
	}
	if len(p.GetNotReady()) > 0 {
		say(cmd, "  inbounds whose application does not respond: %s\n", strings.Join(p.GetNotReady(), ", "))
	}
	say(cmd, "  launcher %s, Envoy %s\n", orDash(p.GetLauncherVersion()), orDash(p.GetEnvoyVersion()))
}
