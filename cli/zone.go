package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// ZoneVerbs are the client verbs about a zone; the program has them below the command that runs one.
func ZoneVerbs() []*cobra.Command { return []*cobra.Command{newZoneAccept()} }

func newZoneAccept() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "accept NAME",
		Short: "Let go of what a zone had in a store that it lost",
		Long: `Accept the store that a zone has now. When a zone's control plane starts with another store
than before, global keeps what the zone had until its proxies are back, since they go on serving. If they
are not going to come back, this withdraws what they served.`,
		Example: "  meridian zone accept east",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			i := slices.IndexFunc(s.GetZones(),
				func(z *adminv1.ZonePeer) bool { return z.GetName() == args[0] })
			switch {
			case i < 0:
				return fmt.Errorf("no zone has the name %q; see meridian status at global", args[0])
			case s.GetZones()[i].GetKept() == 0:
				return fmt.Errorf("nothing is kept for zone %s", args[0])
			}
			z := s.GetZones()[i]
			r, err := c.GetExact(cmd.Context(), mesh.Key{Kind: mesh.KindZone, Name: args[0]})
			if err != nil {
				return err
			}
			next := r.Clone()
			if next.Labels == nil {
				next.Labels = map[string]string{}
			}
			next.Labels[mesh.LabelAcceptStore] = z.GetStoreId()
			if _, err := c.Put(cmd.Context(), next, client.PutOptions{IfRevision: &r.Revision}); err != nil {
				return err
			}
			say(cmd, "zone %s: accepted its store; %d resources of the former one go\n", args[0], z.GetKept())
			return nil
		},
	}
	o.flags(cmd)
	return cmd
}
