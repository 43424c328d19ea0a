package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func newStatus() *cobra.Command {
	o := &clientOptions{}
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the control plane, its zones and the delivery of the last change",
		Example: `  meridian status
  meridian status -o json | jq '.zones[] | select(.lag.revisions > 0)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("-o %q: must be table or json", output)
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			s, err := c.Status(ctx)
			if err != nil {
				return err
			}
			if output == "table" {
				printStatus(cmd, s)
				return nil
			}
			return printMessage(cmd, s) // what GET /status answers
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	o.flags(cmd)
	return cmd
}

func printStatus(cmd *cobra.Command, s *adminv1.GetStatusResponse) {
	what := "global"
	if s.GetZone() != "" {
		what = "zone " + s.GetZone()
	}
	say(cmd, "%s, revision %d, instance %s, version %s\n", what, s.GetRevision(), s.GetInstance(),
		s.GetVersion())
	if st := s.GetStore(); st.GetAvailable() {
		say(cmd, "store: %s\n", codec.EnumWord(st.GetType()))
	} else {
		say(cmd, "store: %s, UNAVAILABLE: %s\n", orDash(codec.EnumWord(st.GetType())), st.GetReason())
	}
	if g := s.GetGlobal(); g != nil {
		say(cmd, "global: %s at %s, applied revision %d", codec.EnumName(g.GetState()), g.GetAddress(),
			s.GetGlobalRevision())
		if g.GetReason() != "" {
			say(cmd, " (%s)", g.GetReason())
		}
		say(cmd, "\n")
	}
	if p := s.GetProxies(); p != nil {
		say(cmd, "proxies: %d of %d online, %d at the latest revision\n", p.GetOnline(), p.GetTotal(),
			p.GetAtRevision())
		if p.GetWithheld() > 0 {
			say(cmd, "         %d disconnected at once and stay endpoints until they return: is this "+
				"control plane cut off?\n", p.GetWithheld())
		}
	}
	for _, d := range s.GetDuplicates() {
		say(cmd, "two proxies have the name %s: the one at %s is connected, the one at %s is refused\n",
			mesh.KeyFromProto(d.GetProxy()), d.GetConnected(), d.GetRefused())
	}
	if what == "global" {
		printZones(cmd, s.GetZones())
	}
	if len(s.GetRejections()) > 0 {
		say(cmd, "\nrejected by proxies, which keep their former configuration:\n")
		for _, r := range s.GetRejections() {
			say(cmd, "  %s: %s\n    cause: %s\n    reason: %s\n", rejectedBy(r), r.GetResource(),
				orDash(causeText(r)), reasonText(r))
		}
	}
}

func printZones(cmd *cobra.Command, zones []*adminv1.ZonePeer) {
	say(cmd, "\n")
	if len(zones) == 0 {
		say(cmd, "no zone has joined yet; issue a token with: meridian token zone --zone NAME\n")
		return
	}
	var rows [][]string
	for _, z := range zones {
		digests := "equal"
		if !z.GetDigestsEqual() {
			digests = "DIFFERENT"
		}
		p := z.GetProxies()
		rows = append(rows, []string{z.GetName(), codec.EnumName(z.GetState()),
			fmt.Sprintf("%d rev, %.1f s", z.GetLag().GetRevisions(), z.GetLag().GetSeconds()),
			digests, fmt.Sprintf("%d/%d", p.GetOnline(), p.GetTotal()), fmt.Sprint(p.GetAtRevision()),
			orDash(z.GetReason())})
	}
	table(cmd, []string{"ZONE", "STATE", "LAG", "DIGESTS", "ONLINE", "LATEST", "REASON"}, rows)
}

// rejectedBy is the proxy, or the zone whose store it was.
func rejectedBy(r *meshv1.Rejection) string {
	if r.GetProxy() == nil {
		return "zone " + r.GetZone()
	}
	return mesh.KeyFromProto(r.GetProxy()).String()
}

func causeText(r *meshv1.Rejection) string {
	k := r.GetCause()
	if k == nil {
		return ""
	}
	s := k.GetKind() + " "
	if k.GetMesh() != "" {
		s += k.GetMesh() + "/"
	}
	return s + k.GetName()
}

// reasonText is the reason, after the field at fault if that is known.
func reasonText(r *meshv1.Rejection) string {
	if r.GetField() == "" {
		return r.GetReason()
	}
	return r.GetField() + ": " + r.GetReason()
}
