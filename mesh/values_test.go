package mesh

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestBandwidth(t *testing.T) {
	t.Parallel()

	for in, want := range map[string]uint64{"1kbps": 1, "8 kbps": 1, "50 kbps": 6, "8192kbps": 1000,
		"1Mbps": 122, "1Gbps": 122070, "999999999Gbps": 122070312377930} {
		if got, ok := BandwidthKiB(in); !ok || got != want {
			t.Errorf("%q is %d (%v), want %d", in, got, ok, want)
		}
	}
}

func TestExpiration(t *testing.T) {
	t.Parallel()

	day := 24 * time.Hour
	for in, want := range map[string]time.Duration{"": 0, "0": 0, "24h": day, "10y": 3650 * day,
		"1d12h": 36 * time.Hour, "5ms": 5 * time.Millisecond, "2w1m": 14*day + time.Minute} {
		if got, err := ParseExpiration(in); err != nil || got != want {
			t.Errorf("%q is %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"5", "h", "1h ", "-1h", "400y", "99999999999999999999s", "1.5h"} {
		if got, err := ParseExpiration(in); err == nil {
			t.Errorf("%q is %v", in, got)
		}
	}
}

func TestStatusCodes(t *testing.T) {
	t.Parallel()

	for code := range 1000 {
		if got, want := IsStatusCode(fmt.Sprintf("%03d", code)), http.StatusText(code) != ""; got != want {
			t.Errorf("%d: %v", code, got)
		}
	}
	for _, s := range []string{"", "5xx", "0503", "+50", "50"} {
		if IsStatusCode(s) {
			t.Errorf("%q accepted", s)
		}
	}
}

func TestKeyCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key  Key
		want string
	}{
		{Key{Kind: KindMeshTimeout, Mesh: "default", Zone: "east", Name: "a"}, ""},
		{Key{Kind: KindZone, Name: "east"}, ""},
		{Key{Kind: "Nope", Name: "a"}, `unknown kind "Nope"`},
		{Key{Kind: KindZone}, "the name is empty"},
		{Key{Kind: KindMeshTimeout, Name: "a"}, "it has no mesh, which its kind demands"},
		{Key{Kind: KindZone, Mesh: "default", Name: "a"}, "it has a mesh, but its kind is of global scope"},
		{Key{Kind: KindZone, Name: "a/b"}, `"a/b" has a slash, a zero byte or is not UTF-8`},
		{Key{Kind: KindZone, Zone: "\xff", Name: "a"}, `"\xff" has a slash, a zero byte or is not UTF-8`},
	} {
		info, err := c.key.Check()
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.key, got, c.want)
		}
		if err == nil && info.Kind != c.key.Kind {
			t.Errorf("%v: the row of %s", c.key, info.Kind)
		}
	}
}
