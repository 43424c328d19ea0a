// Command meridian is the operators' program: the two roles of the control plane (global, zone), the client verbs
// (apply, get, describe, delete, status, token, config), the demo and the benchmark.
//
// Here are flags, environment, files, signals and the opening of stores; the work is in the packages global, zone and
// internal. Every flag of every command is also an environment variable (--data-dir is MERIDIAN_DATA_DIR), and the roles
// read a YAML file named by --config; package internal/config does that from the flag sets themselves.
//
// Errors go to standard error with exit code 1; what a program may want to read goes to standard output.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/internal/config"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// The first signal ends the work in order; from then on the next one ends the process.
	context.AfterFunc(ctx, stop)
	err := newRoot().ExecuteContext(ctx)
	if err != nil {
		var code exitCode
		switch {
		case errors.As(err, &code):
			os.Exit(int(code))
		case !errors.Is(err, errSilent):
			fmt.Fprintln(os.Stderr, "meridian:", err)
		}
		os.Exit(1)
	}
}

// errSilent ends a command with exit code 1 after it has said everything itself.
var errSilent = errors.New("failed")

// exitCode ends a command with that code; it is an answer, and everything is said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "meridian",
		Short: "A multi-zone service-mesh control plane",
		Long: `Meridian is a multi-zone service-mesh control plane.

One global control plane owns policies and shows every zone; a zone control plane in each site serves its Envoys with what
it knows, whatever happens to global. Start with "meridian demo", or with "meridian zone --name here" for one zone alone.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return config.Load(cmd.Flags(), config.Source{Prefix: "MERIDIAN", Ignore: []string{"version"}})
		},
	}
	root.SetErrPrefix("meridian:")
	root.AddGroup(&cobra.Group{ID: "roles", Title: "Control planes:"}, &cobra.Group{ID: "client", Title: "Resources and status:"},
		&cobra.Group{ID: "try", Title: "Trying and measuring:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("roles", newGlobal(), newZone())
	add("client", newApply(), newDiff(), newGet(), newDescribe(), newExplain(), newDebug(), newDelete(), newStatus(), newToken(), newConfig())
	add("try", newDemo(), newBench())
	root.AddCommand(newVersion(), newDemoApp())
	return root
}

func newVersion() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use: "version", Short: "Print the versions of this program and of the control plane", Args: cobra.NoArgs,
		Example: "  meridian version\n  meridian version --client",
		RunE: func(cmd *cobra.Command, _ []string) error {
			say(cmd, "meridian %s\n", version)
			if only, _ := cmd.Flags().GetBool("client"); only {
				return nil
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			s, err := c.Status(cmd.Context())
			if err != nil {
				_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "control plane:", err)
				return nil
			}
			say(cmd, "control plane %s (%s)\n", s.GetVersion(), s.GetRole())
			return nil
		},
	}
	cmd.Flags().Bool("client", false, "do not ask the control plane")
	o.flags(cmd)
	return cmd
}

func say(cmd *cobra.Command, format string, args ...any) {
	_, _ = fmt.Fprintf(cmd.OutOrStdout(), format, args...)
}
