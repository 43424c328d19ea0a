package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
)

func newToken() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Issue a token for a proxy, a zone or a user",
		Long: `Issue a token. It is printed to standard output, without a line end, and is all that its
holder needs to join: it carries the pins by which control planes are verified.`,
	}
	cmd.AddCommand(newDataplaneToken(), newZoneToken(), newUserToken())
	return cmd
}

func validity(cmd *cobra.Command, d time.Duration) (*time.Duration, error) {
	if !cmd.Flags().Changed("valid-for") {
		return nil, nil
	}
	if d <= 0 {
		return nil, errors.New("--valid-for must be above 0, such as 720h")
	}
	return &d, nil
}

func newDataplaneToken() *cobra.Command {
	o := &clientOptions{}
	var t client.DataplaneToken
	var tags []string
	var validFor time.Duration
	cmd := &cobra.Command{
		Use:   "dataplane",
		Short: "Issue a token for a proxy of a mesh, bound to the given values",
		Example: `  meridian token dataplane --name web-1 > web-1.token
  meridian token dataplane --tag kuma.io/service=web --valid-for 720h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if t.ValidFor, err = validity(cmd, validFor); err != nil {
				return err
			}
			for _, tag := range tags {
				k, v, ok := strings.Cut(tag, "=")
				if !ok || k == "" || v == "" {
					return fmt.Errorf("--tag %q: must be name=value", tag)
				}
				if t.Tags == nil {
					t.Tags = map[string][]string{}
				}
				t.Tags[k] = append(t.Tags[k], strings.Split(v, ",")...)
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			return printToken(cmd)(c.IssueDataplaneToken(ctx, t))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&t.Mesh, "mesh", "m", mesh.DefaultMesh, "mesh of the proxy")
	f.StringVar(&t.Name, "name", "", "name of the Dataplane")
	f.StringArrayVar(&tags, "tag", nil,
		"tag that the Dataplane must have, name=value[,value]; may be repeated")
	f.StringVar(&t.Type, "proxy-type", "", "dataplane, or empty for any")
	f.StringVar(&t.Workload, "workload", "", "value of the label kuma.io/workload")
	f.DurationVar(&validFor, "valid-for", 0, "how long the token is valid (default 10 years)")
	o.flags(cmd)
	return cmd
}

func newZoneToken() *cobra.Command {
	o := &clientOptions{}
	var zone string
	var scope []string
	var validFor time.Duration
	cmd := &cobra.Command{
		Use:   "zone",
		Short: "Issue a token for a zone's control plane or for its zone proxies",
		Example: `  meridian token zone --zone us-east > us-east.token
  meridian token zone --zone us-east --scope ingress > ingress.token   # for meridian-dp run`,
		Long: `Issue a token for the control plane of a zone (meridian zone --token-file), or with --scope
ingress for its zone ingresses (meridian-dp run --proxy-type ingress).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if zone == "" {
				return errors.New("--zone is missing; specify the zone that the token is for")
			}
			valid, err := validity(cmd, validFor)
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
			return printToken(cmd)(c.IssueZoneToken(ctx, zone, scope, valid))
		},
	}
	f := cmd.Flags()
	f.StringVar(&zone, "zone", "", "the zone")
	f.StringSliceVar(&scope, "scope", []string{"cp"},
		"what the token is for: cp (the control plane), ingress, egress")
	f.DurationVar(&validFor, "valid-for", 0, "how long the token is valid (default 10 years)")
	o.flags(cmd)
	return cmd
}

func newUserToken() *cobra.Command {
	o := &clientOptions{}
	var name string
	var groups []string
	var validFor time.Duration
	cmd := &cobra.Command{
		Use:     "user",
		Short:   "Issue a token for a user or a program",
		Example: "  meridian token user --name ann --group mesh-system:admin --valid-for 24h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				return errors.New("--name is missing; specify the user that the token is for")
			}
			valid, err := validity(cmd, validFor)
			if err != nil {
				return err
			}
			if valid == nil {
				return errors.New("--valid-for is missing; specify a duration such as 24h")
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			return printToken(cmd)(c.IssueUserToken(ctx, name, groups, *valid))
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "name of the user")
	f.StringArrayVar(&groups, "group", nil, "group of the user; may be repeated")
	f.DurationVar(&validFor, "valid-for", 0, "how long the token is valid")
	o.flags(cmd)
	return cmd
}

// printToken writes the bare token; a terminal gets a line end.
func printToken(cmd *cobra.Command) func(string, error) error {
	return func(token string, err error) error {
		if err != nil {
			return err
		}
		say(cmd, "%s", token)
		if f, ok := cmd.OutOrStdout().(*os.File); ok {
			if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
				say(cmd, "\n")
			}
		}
		return nil
	}
}
