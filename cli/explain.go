package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

func newExplain() *cobra.Command {
	o := &clientOptions{}
	req := &adminv1.ExplainRequest{}
	var output string
	var headers []string
	cmd := &cobra.Command{
		Use:   "explain FROM -> TO",
		Short: "Explain what a request would meet: route, backends, timeouts, retries, limits, permissions",

		Long: `Explain what a request would meet, from the configuration that proxies have: the route that
matches and its backends, timeouts, retries, limits and permissions with the policy behind each, and why it
would fail.

FROM is the name of a Dataplane, or of a MeshService, one instance of which is taken. TO is the name of a
MeshService or of a multi-zone service, one of its hostnames, or its KRI; ":PORT" selects a port. Nothing
is sent.

The arrow needs quotes in a shell, and may be left out. The exit code is 1 if the request fails.`,
		Example: `  meridian explain web backend
  meridian explain 'web-1 -> backend.mesh.local:8080' --path /v2/orders --method POST --header x-canary=1`,
		Args: func(_ *cobra.Command, args []string) error {
			_, _, err := explainArgs(args)
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req.From, req.To, _ = explainArgs(args)
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %q: must be text or json", output)
			}
			req.Headers = map[string]string{}
			for _, h := range headers {
				name, value, ok := strings.Cut(h, "=")
				if !ok || name == "" {
					return fmt.Errorf("--header %q: must be NAME=VALUE", h)
				}
				req.Headers[name] = value
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			got, err := c.Explain(ctx, req)
			if err != nil {
				return err
			}
			if output == "json" {
				if err := printMessage(cmd, got); err != nil {
					return err
				}
			} else {
				printExplanation(cmd, got)
			}
			if !got.GetOk() {
				return ErrSilent
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&req.Mesh, "mesh", "m", mesh.DefaultMesh, "mesh of both")
	f.StringVar(&req.Zone, "zone", "", "zone of the caller, if several have one of that name")
	f.Uint32Var(&req.Port, "port", 0, "port of the destination, if it has several")
	f.StringVar(&req.Path, "path", "/", "path, with the query if there is one")
	f.StringVar(&req.Method, "method", "GET", "method")
	f.StringArrayVar(&headers, "header", nil, "header, NAME=VALUE; may be repeated")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	o.flags(cmd)
	return cmd
}

// explainArgs takes "A -> B", as three words or as one, and "A B".
func explainArgs(args []string) (from, to string, err error) {
	if len(args) == 2 && args[1] == "-" {
		return "", "", fmt.Errorf("the shell took -> for a redirection to a file: leave the arrow out, or "+
			"quote it: meridian explain '%s -> NAME'", args[0])
	}
	words := strings.Fields(strings.ReplaceAll(strings.Join(args, " "), "->", " "))
	if len(words) != 2 {
		return "", "", errors.New("expected a caller and a destination: meridian explain web backend")
	}
	return words[0], words[1], nil
}

func printExplanation(cmd *cobra.Command, e *adminv1.ExplainResponse) {
	width := 0
	for _, s := range e.GetSteps() {
		width = max(width, len(s.GetSubject()))
	}
	for _, s := range e.GetSteps() {
		mark := " "
		if s.GetProblem() {
			mark = "!"
		}
		say(cmd, "%s %-*s  %s%s\n", mark, width, s.GetSubject(), s.GetText(), setBy(s.GetFrom()))
	}
	say(cmd, "\n%s\n", e.GetVerdict())
}
