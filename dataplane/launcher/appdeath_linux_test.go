package launcher

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

func mustAddr(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestParseLocal(t *testing.T) {
	t.Parallel()

	for in, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000:0050":                         "0.0.0.0:80",
		"0000000000000000FFFF00000100007F:1F90": "127.0.0.1:8080",
		"00000000000000000000000001000000:1F90": "[::1]:8080",
	} {
		if got, ok := parseLocal(in); !ok || got.String() != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", "x:y", "01:1F90", "0100007F"} {
		if got, ok := parseLocal(in); ok {
			t.Errorf("%q: got %s", in, got)
		}
	}
}

func TestListenerDeath(t *testing.T) {
	address := freeAddress(t)
	app := application(t, address)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for connect(ctx, target{address: address, timeout: time.Second}) != nil {
		if ctx.Err() != nil {
			t.Fatal("the application did not come up")
		}
	}
	died, stop := watchDeath(ctx, address)
	defer stop()
	select {
	case <-died:
		t.Fatal("a living process was taken for dead")
	default:
	}
	began := time.Now()
	_ = app.Process.Kill()
	receive(t, "the death", died)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("noticed after %s", took)
	}
	if pids := holders(listeningInodes(mustAddr(t, address))); len(pids) != 0 {
		t.Errorf("still held by %v", pids)
	}
}
