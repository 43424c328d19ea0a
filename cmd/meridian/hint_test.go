package main

import (
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/internal/hint"
)

// TestHintsParse: what an error tells users to run is a command of this program.
func TestHintsParse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		hint.DataplaneToken("default", "web-1"),
		hint.ZoneToken("east", "cp", "ingress"),
		hint.UserToken("ann"),
	} {
		_, rest, _ := strings.Cut(text, "'meridian ")
		line, _, ok := strings.Cut(rest, "'")
		if !ok {
			t.Errorf("%q names no command", text)
			continue
		}
		cmd, args, err := newRoot().Find(strings.Fields(line))
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if err := cmd.ParseFlags(args); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if left := cmd.Flags().Args(); len(left) > 0 {
			t.Errorf("%q: %s takes no %v", line, cmd.CommandPath(), left)
		}
	}
	for _, text := range []string{hint.GiveZoneToken, hint.ServerCA, hint.ZoneName("a", "b")} {
		for word := range strings.FieldsSeq(text) {
			if flag, ok := strings.CutPrefix(word, "--"); ok && newZone().Flags().Lookup(flag) == nil {
				t.Errorf("%q: a zone has no --%s", text, flag)
			}
		}
	}
}
