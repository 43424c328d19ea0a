package listen

import (
	"errors"
	"strings"
	"testing"
)

func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := Open(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()

	_, err = Open(t.Context(), l.Addr().String())
	var inUse *InUseError
	if !errors.As(err, &inUse) {
		t.Fatalf("Open = %v, want an InUseError", err)
	}
	if inUse.Address != l.Addr().String() {
		t.Errorf("Address = %q, want %q", inUse.Address, l.Addr())
	}
	if !strings.HasPrefix(inUse.Holder, "listen.test") {
		t.Errorf("Holder = %q, want this process", inUse.Holder)
	}
}
