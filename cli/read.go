package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// selection holds the flags that name resources.
type selection struct {
	clientOptions
	mesh, zone, namespace string
}

func (s *selection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&s.mesh, "mesh", "m", mesh.DefaultMesh, "mesh of the resource")
	f.StringVar(&s.zone, "zone", "", "zone that owns the resource, if several have one of that name")
	f.StringVarP(&s.namespace, "namespace", "n", "", "namespace of the resource (Kubernetes zones)")
	s.clientOptions.flags(cmd)
}

func (s *selection) key(info *mesh.KindInfo, name string) mesh.Key {
	namespace := s.namespace
	if before, after, ok := strings.Cut(name, "/"); ok && namespace == "" { // as get shows it
		namespace, name = before, after
	}
	k := mesh.Key{
		Kind:      info.Kind,
		Zone:      s.zone,
		Namespace: namespace,
		Name:      name,
	}
	if info.Scope == mesh.ScopeMesh {
		k.Mesh = s.mesh
	}
	return k
}

func newGet() *cobra.Command {
	s := &selection{}
	var output, name string
	var labels map[string]string
	var allMeshes bool
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "Show resources",
		Example: `  meridian get meshes
  meridian get meshservices
  meridian get meshtimeout slow -o yaml
  meridian get dataplanes -m payments -l kuma.io/zone=us-east`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := kindOf(args[0])
			if err != nil {
				return err
			}
			if !slices.Contains([]string{"table", "yaml", "json"}, output) {
				return fmt.Errorf("-o %q: must be table, yaml or json", output)
			}
			c, done, err := s.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := s.call(cmd)
			defer cancel()
			if len(args) == 2 {
				r, err := c.Get(ctx, s.key(info, args[1]))
				if err != nil {
					return notFound(err, info, args[1], s)
				}
				return show(cmd, output, info, []*mesh.Resource{r}, true)
			}
			list := client.ListOptions{Kind: info.Kind, Labels: labels, Name: name}
			if info.Scope == mesh.ScopeMesh && !allMeshes {
				list.Mesh = s.mesh
			}
			page, err := c.List(ctx, list)
			if err != nil {
				return err
			}
			for _, w := range page.Warnings {
				_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "Warning:", w)
			}
			rs := page.Resources
			if s.zone != "" {
				rs = slices.DeleteFunc(slices.Clone(rs),
					func(r *mesh.Resource) bool { return r.Key.Zone != s.zone })
			}
			return show(cmd, output, info, rs, false)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "table", "table, yaml or json")
	f.StringToStringVarP(&labels, "label", "l", nil,
		"only resources with this label, k=v; may be repeated")
	f.StringVar(&name, "name", "", "only resources whose name contains this")
	f.BoolVarP(&allMeshes, "all-meshes", "A", false, "list resources of every mesh")
	s.flags(cmd)
	return cmd
}

func notFound(err error, info *mesh.KindInfo, name string, s *selection) error {
	var e *client.Error
	if !errors.As(err, &e) || e.Code != codes.NotFound {
		return err
	}
	where := ""
	if info.Scope == mesh.ScopeMesh {
		where = " in mesh " + s.mesh
	}
	if s.zone != "" {
		where += " of zone " + s.zone
	}
	return fmt.Errorf("%s %q not found%s", info.Kind, name, where)
}

func show(cmd *cobra.Command, output string, info *mesh.KindInfo, rs []*mesh.Resource, single bool) error {
	switch output {
	case "yaml":
		for i, r := range rs {
			data, err := codec.EncodeYAML(r)
			if err != nil {
				return err
			}
			if i > 0 {
				say(cmd, "---\n")
			}
			say(cmd, "%s\n", strings.TrimRight(string(data), "\n"))
		}
		return nil
	case "json":
		var parts []string
		for _, r := range rs {
			data, err := codec.EncodeJSON(r)
			if err != nil {
				return err
			}
			parts = append(parts, string(data))
		}
		if single {
			return printJSON(cmd, []byte(parts[0]))
		}
		return printJSON(cmd, fmt.Appendf(nil, `{"total":%d,"items":[%s]}`, len(parts),
			strings.Join(parts, ",")))
	}
	if len(rs) == 0 {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "no %s found\n", info.Kind)
		return nil
	}
	header := []string{"NAME", "ZONE", "AGE"}
	if info.Scope == mesh.ScopeMesh {
		header = append([]string{"MESH"}, header...)
	}
	extra, columns := extraColumns(info.Kind)
	header = append(header, extra...)
	var rows [][]string
	for _, r := range rs {
		zone := r.Key.Zone
		if zone == "" {
			zone = "-"
		}
		name := r.Key.Name
		if r.Key.Namespace != "" {
			name = r.Key.Namespace + "/" + name
		}
		row := []string{name, zone, age(r.Created)}
		if info.Scope == mesh.ScopeMesh {
			row = append([]string{r.Key.Mesh}, row...)
		}
		if columns != nil {
			row = append(row, columns(r)...)
		}
		rows = append(rows, row)
	}
	table(cmd, header, rows)
	return nil
}

// extraColumns are what users look for first in a kind.
func extraColumns(kind mesh.Kind) ([]string, func(*mesh.Resource) []string) {
	if info, ok := destination.Lookup(kind); ok {
		return info.Columns, info.Values
	}
	switch kind {
	case mesh.KindMesh:
		return []string{"MTLS", "MESHSERVICES"}, func(r *mesh.Resource) []string {
			m := mesh.Spec[*meshv1.Mesh](r)
			mtls := "off"
			for _, b := range m.GetMtls().GetBackends() {
				if b.GetName() == m.GetMtls().GetEnabledBackend() {
					mtls = b.GetType() + "/" + b.GetName()
				}
			}
			return []string{mtls, orDash(m.GetMeshServices().GetMode())}
		}
	case mesh.KindZone:
		return []string{"STATE", "VERSION"}, func(r *mesh.Resource) []string {
			s := mesh.Status[*meshv1.ZoneStatus](r)
			return []string{orDash(s.GetState()), orDash(s.GetVersion())}
		}
	case mesh.KindDataplane:
		return []string{"SERVICES", "ADDRESS"}, func(r *mesh.Resource) []string {
			n := mesh.Spec[*meshv1.Dataplane](r).GetNetworking()
			var services []string
			for _, in := range n.GetInbound() {
				if s := in.GetTags()[mesh.TagService]; s != "" && !slices.Contains(services, s) {
					services = append(services, s)
				}
			}
			return []string{orDash(strings.Join(services, ",")), orDash(n.GetAddress())}
		}
	case mesh.KindDataplaneInsight, mesh.KindZoneIngressInsight:
		return []string{"STATE", "NOT READY"}, func(r *mesh.Resource) []string {
			s := mesh.Spec[*meshv1.ProxyInsight](r)
			return []string{orDash(s.GetState()), orDash(strings.Join(s.GetNotReady(), ","))}
		}
	case mesh.KindZoneIngress:
		return []string{"ADDRESS", "ADVERTISED"}, func(r *mesh.Resource) []string {
			n := mesh.Spec[*meshv1.ZoneIngress](r).GetNetworking()
			advertised := "-"
			if n.GetAdvertisedAddress() != "" {
				advertised = fmt.Sprintf("%s:%d", n.GetAdvertisedAddress(), n.GetAdvertisedPort())
			}
			return []string{fmt.Sprintf("%s:%d", n.GetAddress(), n.GetPort()), advertised}
		}
	}
	return nil, nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newDelete() *cobra.Command {
	s := &selection{}
	var force bool
	cmd := &cobra.Command{
		Use:   "delete KIND NAME",
		Short: "Delete one resource",
		Example: `  meridian delete meshtimeout slow
  meridian delete meshhttproute canary -m payments`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := kindOf(args[0])
			if err != nil {
				return err
			}
			c, done, err := s.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := s.call(cmd)
			defer cancel()
			key := s.key(info, args[1])
			revision, err := c.Delete(ctx, key, client.DeleteOptions{Force: force})
			if err != nil {
				return notFound(err, info, args[1], s)
			}
			say(cmd, "%s deleted (revision %d)\n", title(key), revision)
			return nil
		},
	}
	s.flags(cmd)
	cmd.Flags().BoolVar(&force, "force", false,
		"delete although a route or a destination would be left without an instance")
	return cmd
}
