package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
)

// computed are labels that the control plane that a document is applied to gives itself.
var computed = []string{
	mesh.LabelOrigin,
	mesh.LabelZone,
	mesh.LabelMesh,
	mesh.LabelEnv,
	mesh.LabelDisplayName,
	mesh.LabelPolicyRole,
}

func newExport() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print what another control plane can take over, as documents for apply",
		Long: `Print meshes, policies, and all else that a global control plane owns, as documents that
apply takes at another one. A zone that had no global is carried over by it before it joins one. Left out
are secrets, which each control plane makes for itself, what describes the proxies of a zone, and defaults.`,
		Example: `  meridian export > all.yaml
  meridian export --address http://zone:5681 | meridian apply --address http://global:5681 -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			var documents []string
			for _, info := range mesh.Kinds {
				if !info.SyncDown || info.Secret() {
					continue
				}
				page, err := c.List(ctx, client.ListOptions{Kind: info.Kind})
				if err != nil {
					return fmt.Errorf("list %s: %w", info.Plural, err)
				}
				for _, r := range page.Resources {
					if r.Labels[mesh.LabelManagedBy] == mesh.ManagedByDefaults {
						continue
					}
					text, err := portable(r)
					if err != nil {
						return err
					}
					// A mesh comes before what is in it.
					if info.Kind == mesh.KindMesh {
						documents = slices.Insert(documents, 0, text)
					} else {
						documents = append(documents, text)
					}
				}
			}
			say(cmd, "%s", strings.Join(documents, "---\n"))
			return nil
		},
	}
	o.flags(cmd)
	return cmd
}

// portable is a resource as a document without what its control plane made of it.
func portable(r *mesh.Resource) (string, error) {
	c := r.Clone()
	c.Key.Zone, c.Status, c.Created, c.Modified = "", nil, time.Time{}, time.Time{}
	c.Labels = maps.Clone(r.Labels)
	for _, label := range computed {
		delete(c.Labels, label)
	}
	data, err := codec.EncodeYAML(c)
	if err != nil {
		return "", err
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "kri:") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, ""), nil
}
