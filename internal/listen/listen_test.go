package listen

import (
	"strings"
	"testing"
)

func TestPortInUse(t *testing.T) {
	l, err := Open(t.Context(), "--api-addr", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = Open(t.Context(), "--api-addr", l.Addr().String())
	if err == nil {
		t.Fatal("a port was taken twice")
	}
	for _, want := range []string{"--api-addr", l.Addr().String(), "in use by", "listen.test"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}
