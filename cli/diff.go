package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func newDiff() *cobra.Command {
	o := &applyOptions{}
	var output string
	var exit bool
	var options client.DiffOptions
	cmd := &cobra.Command{
		Use:   "diff -f FILE|FOLDER|URL|-",
		Short: "Show which proxies would change if the files were applied, and which of their resources",
		Long: `Show, before it is applied, which proxies in which zones would change, and which of their Envoy
resources. Every zone computes it with the engine that serves its proxies. Nothing is written, but the
documents are checked as apply checks them, so it needs the same permissions.

What control planes derive from a change is not included: the members of a new multi-zone service, or the
MeshServices of a new Dataplane. Proxies that are not connected do not count.

The exit code is 0, or 1 if the comparison failed. With --exit-code it is 2 if something would change, or if
a zone could not be asked.`,
		Example: `  meridian diff -f route.yaml
  meridian diff -f policies/ --verbose       # and what changes within each resource
  meridian diff -f route.yaml -o json
  cat route.yaml | meridian diff -f - --exit-code`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(o.files) == 0 {
				return errors.New("nothing to compare; specify -f FILE, -f FOLDER, -f URL or -f -")
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %q: must be text or json", output)
			}
			docs, err := o.read(cmd)
			if err != nil {
				return err
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			resp, err := c.Diff(ctx, resourcesOf(docs), options)
			if err != nil {
				return err
			}
			if output == "json" {
				if err := printMessage(cmd, resp); err != nil {
					return err
				}
			} else {
				printDiff(cmd, resp)
			}
			if exit && (len(resp.GetWarnings()) > 0 ||
				slices.ContainsFunc(resp.GetZones(),
					func(z *adminv1.ZoneDiff) bool { return z.GetChanged() > 0 })) {
				return exitCode(2)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&o.files, "file", "f", nil,
		"file, folder, URL, or - for standard input; may be repeated")
	f.StringVarP(&o.mesh, "mesh", "m", "", "mesh of documents without one (default "+mesh.DefaultMesh+")")
	f.BoolVar(&options.Verbose, "verbose", false, "show what changes within each resource")
	f.Uint32Var(&options.Size, "size", 0, "changed proxies to list in each zone (default 20)")
	f.BoolVar(&exit, "exit-code", false, "end with code 2 if something would change")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	o.flags(cmd)
	return cmd
}

func printDiff(cmd *cobra.Command, d *adminv1.DiffResponse) {
	for _, w := range d.GetInert() {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s\n", w)
	}
	if len(d.GetZones()) == 0 && len(d.GetWarnings()) == 0 {
		say(cmd, "no zone would change\n")
	}
	for _, z := range d.GetZones() {
		for _, f := range z.GetFailures() {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(),
				"Warning: zone %s cannot compute it, and proxies would keep their configuration: %s\n",
				z.GetZone(), f)
		}
		if z.GetChanged() == 0 {
			say(cmd, "zone %s: none of %d proxies would change\n", z.GetZone(), z.GetProxies())
			continue
		}
		say(cmd, "zone %s: %d of %d proxies would change\n", z.GetZone(), z.GetChanged(), z.GetProxies())
		for _, r := range z.GetResources() {
			where := ""
			if r.GetProxies() < z.GetChanged() {
				where = ": " + proxyNames(r.GetNames(), r.GetProxies())
			}
			say(cmd, "  %s %s: %s at %d%s\n", codec.EnumWord(r.GetType()), r.GetName(),
				codec.EnumWord(r.GetAction()), r.GetProxies(), where)
			for _, l := range r.GetLines() {
				say(cmd, "      %s\n", l)
			}
		}
		say(cmd, "  proxies: %s\n", proxyNames(z.GetNames(), z.GetChanged()))
		for _, e := range z.GetEmptied() {
			say(cmd, "  empties: %s\n", e)
		}
	}
	for _, w := range d.GetWarnings() {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "Warning:", w)
	}
	for _, g := range d.GetGuards() {
		say(cmd, "needs --force: %s\n", g)
	}
}

// proxyNames are the first names and how many more there are, with their meshes if these differ.
func proxyNames(keys []*meshv1.Key, total uint32) string {
	var names []string
	for _, k := range keys {
		name := k.GetName()
		if k.GetMesh() != "" &&
			slices.ContainsFunc(keys, func(o *meshv1.Key) bool { return o.GetMesh() != k.GetMesh() }) {
			name = k.GetMesh() + "/" + name
		}
		names = append(names, name)
	}
	text := strings.Join(names, ", ")
	if rest := int(total) - len(names); rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}
