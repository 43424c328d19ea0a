package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/internal/adminclient"
	"github.com/meridian-mesh/meridian/internal/adminjson"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func newDiff() *cobra.Command {
	o := &applyOptions{}
	var output string
	var options adminclient.DiffOptions
	cmd := &cobra.Command{
		Use:   "diff -f FILE|FOLDER|URL|-",
		Short: "Say which proxies would change if the files were applied, and which of their resources; nothing is written",
		Long: `Say, before it is applied, which proxies in which zones would change, and which of their Envoy resources. Every zone
computes it with the engine that serves its proxies. Nothing is written.`,
		Example: `  meridian diff -f route.yaml
  meridian diff -f policies/ --verbose       # and what changes within each resource
  meridian diff -f route.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(o.files) == 0 {
				return errors.New("nothing to compare; give -f FILE, -f FOLDER, -f URL or -f -")
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %q: want text or json", output)
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
				data, err := adminjson.Marshal(resp)
				if err != nil {
					return err
				}
				say(cmd, "%s\n", data)
				return nil
			}
			printDiff(cmd, resp)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&o.files, "file", "f", nil, "file, folder, URL, or - for standard input; may be given several times")
	f.StringVarP(&o.mesh, "mesh", "m", "", "mesh of documents that name none (default "+mesh.DefaultMesh+")")
	f.BoolVar(&options.Verbose, "verbose", false, "show what changes within each resource")
	f.Uint32Var(&options.Size, "size", 0, "changed proxies to name in each zone (default 20)")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	o.flags(cmd)
	return cmd
}

func printDiff(cmd *cobra.Command, d *adminv1.DiffResponse) {
	for _, z := range d.GetZones() {
		if z.GetChanged() == 0 {
			say(cmd, "zone %s: none of %d proxies would change\n", z.GetZone(), z.GetProxies())
			continue
		}
		say(cmd, "zone %s: %d of %d proxies would change\n", z.GetZone(), z.GetChanged(), z.GetProxies())
		for _, r := range z.GetResources() {
			say(cmd, "  %s %s: %s at %d\n", r.GetType(), r.GetName(), r.GetAction(), r.GetProxies())
			for _, l := range r.GetLines() {
				say(cmd, "      %s\n", l)
			}
		}
		var names []string
		for _, k := range z.GetNames() {
			name := k.GetName()
			if k.GetMesh() != "" && slices.ContainsFunc(z.GetNames(), func(o *meshv1.Key) bool { return o.GetMesh() != k.GetMesh() }) {
				name = k.GetMesh() + "/" + name
			}
			names = append(names, name)
		}
		more := ""
		if rest := int(z.GetChanged()) - len(names); rest > 0 {
			more = fmt.Sprintf(" and %d more", rest)
		}
		say(cmd, "  proxies: %s%s\n", strings.Join(names, ", "), more)
	}
	for _, w := range d.GetWarnings() {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "Warning:", w)
	}
	for _, g := range d.GetGuards() {
		say(cmd, "needs --force: %s\n", g)
	}
}
