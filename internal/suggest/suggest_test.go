package suggest

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	t.Parallel()

	known := []string{"requestTimeout", "streamIdleTimeout", "to", "from", "rules"}
	for in, want := range map[string]string{"reqestTimeout": "requestTimeout",
		"request_timeout": "requestTimeout", "ruels": "rules",
		"form": "from", "ot": "to", "completelyElse": "", "x": "", strings.Repeat("a", 100): ""} {
		if got := Nearest(in, known); got != want {
			t.Errorf("%q is nearest to %q, want %q", in, got, want)
		}
	}
}
