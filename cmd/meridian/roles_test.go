package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestFlagsAreDocumented: docs/operating.md has a row for every flag of both roles, with its default.
func TestFlagsAreDocumented(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if cells := strings.Split(line, "|"); len(cells) == 6 {
			rows[strings.TrimSpace(cells[1])] = strings.TrimSpace(cells[3])
		}
	}
	for _, cmd := range []*cobra.Command{newGlobal(), newZone()} {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			def, ok := rows["`--"+f.Name+"`"]
			switch {
			case !ok:
				t.Errorf("meridian %s: docs/operating.md has no row for --%s", cmd.Name(), f.Name)
			case f.DefValue != "" && def != "`"+f.DefValue+"`":
				t.Errorf("meridian %s: docs/operating.md says that the default of --%s is %s, it is %q",
					cmd.Name(), f.Name, def, f.DefValue)
			}
		})
	}
}
