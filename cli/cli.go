// Package cli holds the client verbs of the meridian program (apply, get, describe, delete, diff,
// explain, status, audit, token, config, debug) as cobra commands that any program, and any test, can run
// in its own process.
//
// A command writes its result to the command's output, and warnings to its error output. Errors are
// returned, never printed twice: [Report] prints what a command has not printed itself and gives the exit
// code.
//
// No example: the verbs need a control plane; the tests run every one of them against one in process.
package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// ErrSilent ends a command with exit code 1 after it has printed everything itself.
var ErrSilent = errors.New("failed")

// exitCode ends a command with that code; it is a result, and everything is printed.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// Report writes to w what a command that ended with err has not printed itself, and returns the exit code.
func Report(w io.Writer, err error) int {
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case !errors.Is(err, ErrSilent):
		_, _ = fmt.Fprintln(w, "meridian:", err)
	}
	return 1
}

// Verbs are the client verbs, in the order of help.
func Verbs() []*cobra.Command {
	return []*cobra.Command{newApply(), newDiff(), newGet(), newDescribe(), newExplain(), newDebug(),
		newDelete(), newExport(), newStatus(), newAudit(), newToken(), newConfig()}
}

// Version is the command that prints the version of this program and of the control plane.
func Version(version string) *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of this program and of the control plane",
		Args:    cobra.NoArgs,
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
