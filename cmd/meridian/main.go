// Command meridian is the operators' program: the two roles of the control plane (global, zone),
// the client verbs (apply, get, describe, delete, status, token, config), the demo and the
// benchmark.
//
// Here are flags, environment, files, signals and the opening of stores; the work is in the
// packages global, zone and internal. Every flag of every command is also an environment variable
// (--data-dir is MERIDIAN_DATA_DIR), and the roles read a YAML file named by --config; package
// internal/config does that from the flag sets themselves.
//
// Errors go to standard error with exit code 1; what a program may want to read goes to standard output.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/cli"
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
		os.Exit(cli.Report(os.Stderr, err))
	}
}

// newHelp is cobra's help command, but that help on what does not exist is an error.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return fmt.Errorf("%q has no command %q", cmd.CommandPath(), rest[0])
			}
			return cmd.Help()
		},
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "meridian",
		Short: "A multi-zone service-mesh control plane",
		Long: `Meridian is a multi-zone service-mesh control plane.

One global control plane owns policies and shows every zone; a zone control plane in each site serves its
Envoys with what it knows, whatever happens to global. Start with "meridian demo", or with
"meridian zone --name here" for one zone alone.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return config.Load(cmd.Flags(), config.Source{Prefix: "MERIDIAN", Ignore: []string{"version"}})
		},
	}
	root.SetErrPrefix("meridian:")
	root.SetHelpCommand(newHelp(root))
	root.AddGroup(&cobra.Group{
		ID:    "roles",
		Title: "Control planes:",
	}, &cobra.Group{
		ID:    "client",
		Title: "Resources and status:",
	},
		&cobra.Group{ID: "try", Title: "Trying and measuring:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("roles", newGlobal(), newZone())
	add("client", cli.Verbs()...)
	add("try", newDemo(), newBench())
	root.AddCommand(cli.Version(version), newDemoApp())
	return root
}
