package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meridian-mesh/meridian/cli"
)

// TestFlagsNameTheirTypes: pflag takes text between backquotes for the type of the value.
func TestFlagsNameTheirTypes(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if kind, _ := pflag.UnquoteUsage(f); strings.Contains(kind, " ") {
				t.Errorf("%s --%s shows the type %q", cmd.CommandPath(), f.Name, kind)
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line, output, err string
	}{
		{line: "help apply", output: "meridian apply -f FILE"},
		{line: "help config add", output: "--skip-check"},
		{line: "help", output: "Resources and status"},
		{line: "help aply", err: `unknown command "aply" for "meridian"`},
		{line: "help config ad", err: `"meridian config" has no command "ad"`},
	} {
		var out, errs bytes.Buffer
		root := newRoot()
		root.SetArgs(strings.Fields(c.line))
		root.SetOut(&out)
		err := root.ExecuteContext(t.Context())
		code := cli.Report(&errs, err)
		if !strings.Contains(out.String(), c.output) || !strings.Contains(errs.String(), c.err) {
			t.Errorf("%s prints %q and %q, want %q and %q", c.line, out.String(), errs.String(), c.output,
				c.err)
		}
		if failed := code != 0; failed != (c.err != "") {
			t.Errorf("%s: exit code %d", c.line, code)
		}
	}
}
