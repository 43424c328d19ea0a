package translate

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// TestCallRoutes: which routes a gRPC client gets, in what order, and where they lead.
func TestCallRoutes(t *testing.T) {
	to := func(m ir.Match, backends ...ir.Backend) ir.Route {
		return ir.Route{
			Match:    m,
			Backends: backends,
			RoutePolicy: ir.RoutePolicy{Timeouts: ir.RouteTimeouts{
				Request:    3 * time.Second,
				StreamIdle: time.Hour,
			}},
		}
	}
	a := ir.Backend{Cluster: "a", Weight: 3}
	redirect := to(ir.Match{Path: "/r"})
	redirect.Redirect = &ir.Redirect{Host: "h", Status: 302}
	answer := to(ir.Match{Path: "/s"})
	answer.Status = 500
	rewritten := to(ir.Match{PathType: ir.PathExact, Path: "/w"}, a)
	rewritten.HostRewrite, rewritten.ReplacePath = "h", new(string)
	rewritten.Mirrors = []ir.Mirror{{Cluster: "m", Millionths: 1}}
	rewritten.RequestHeaders = ir.HeaderEdit{Remove: []string{"x"}}
	got := CallRoutes(ir.RouteConfig{
		Name: "n",
		Common: ir.RoutePolicy{Retry: ir.Share(ir.Retry{
			On:    []string{"reset"},
			Count: 5,
			Base:  25 * time.Millisecond,
			Max:   250 * time.Millisecond,
		})},
		Routes: []ir.Route{
			to(ir.Match{Path: "/q", Query: []ir.ValueMatch{{Name: "a"}}}, a),
			to(ir.Match{Path: "/g", Method: "GET"}, a),
			to(ir.Match{Path: "/p", Method: "POST"}, a),
			redirect, answer, rewritten,
			to(ir.Match{
				Path:    "/2",
				Headers: []ir.ValueMatch{{Name: "X-A", Kind: ir.ValueAbsent}},
			}, a, ir.Backend{Weight: 1}),
		},
	})
	vh := got.GetVirtualHosts()[0]
	if r := vh.GetRetryPolicy(); r.GetRetryOn() != "unavailable" || r.GetNumRetries().GetValue() != 4 {
		t.Errorf("retries %v", r)
	}
	want := []string{"/p a", "/r " + MissingBackend, "/s " + MissingBackend, "/w a",
		"/2 a:3 " + MissingBackend + ":1"}
	var have []string
	for _, r := range vh.GetRoutes() {
		text := r.GetMatch().GetPrefix() + r.GetMatch().GetPath()
		if c := r.GetRoute().GetCluster(); c != "" {
			text += " " + c
		}
		for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
			text += " " + c.GetName() + ":" + string(rune('0'+c.GetWeight().GetValue()))
		}
		have = append(have, text)
		if r.GetRoute().GetMaxStreamDuration().GetMaxStreamDuration().AsDuration() != 3*time.Second {
			t.Errorf("%s takes %v", text, r.GetRoute().GetMaxStreamDuration())
		}
		if r.GetRoute().GetTimeout() != nil || r.GetRoute().GetRegexRewrite() != nil ||
			len(r.GetRoute().GetRequestMirrorPolicies()) > 0 || len(r.GetRequestHeadersToRemove()) > 0 {
			t.Errorf("%s has what gRPC does not take: %v", text, r)
		}
	}
	if strings.Join(have, "\n") != strings.Join(want, "\n") {
		t.Errorf("routes\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	h := vh.GetRoutes()[4].GetMatch().GetHeaders()[0]
	if present, ok := h.GetHeaderMatchSpecifier().(*routev3.HeaderMatcher_PresentMatch); !ok ||
		!present.PresentMatch || !h.GetInvertMatch() || h.GetName() != "x-a" {
		t.Errorf("absent is %v", h)
	}
	for i, r := range vh.GetRoutes() {
		if r.GetRoute().GetRetryPolicy() != nil != (i == 1 || i == 2) {
			t.Errorf("only what leads to no backend is not retried: %v", r)
		}
	}
}

// TestCallRetries: what of a policy of retries a gRPC client gets. None refuses a part of it.
func TestCallRetries(t *testing.T) {
	for name, c := range map[string]struct {
		retry ir.Retry
		want  string
	}{
		"default of gRPC": {ir.Retry{
			On: []string{"cancelled", "connect-failure", "gateway-error", "refused-stream", "reset",
				"resource-exhausted",
				"unavailable"},
			Count: 5,
			Base:  25 * time.Millisecond,
			Max:   250 * time.Millisecond,
		}, "cancelled,resource-exhausted,unavailable 4 25ms 250ms"},
		"default of HTTP": {ir.Retry{
			On:    []string{"gateway-error", "connect-failure"},
			Count: 1,
			Base:  time.Second,
			Max:   2 * time.Second,
		}, "unavailable 1 1s 2s"},
		"as the policy says": {ir.Retry{
			On:    []string{"deadline-exceeded", "internal"},
			Count: 2,
			Base:  time.Second,
			Max:   2 * time.Second,
		}, "deadline-exceeded,internal 2 1s 2s"},
		"pauses out of bounds": {ir.Retry{
			On:    []string{"internal"},
			Count: 1,
			Base:  1,
			Max:   1000 * time.Hour,
		}, "internal 1 5ms 1h0m0s"},
		"a base out of bounds": {ir.Retry{
			On:    []string{"internal"},
			Count: 1,
			Base:  9 * time.Hour,
			Max:   10 * time.Hour,
		}, "internal 1 1h0m0s 1h0m0s"},
		"no pause": {ir.Retry{On: []string{"internal"}, Count: 1}, "internal 1 5ms 5ms"},
		"a longest below the base": {ir.Retry{
			On:    []string{"internal"},
			Count: 1,
			Base:  time.Second,
			Max:   time.Millisecond,
		}, "internal 1 1s 1s"},
		"a code": {ir.Retry{
			On:    []string{"retriable-status-codes"},
			Codes: []uint32{404, 503},
			Count: 1,
			Base:  1,
			Max:   1,
		}, "unavailable 1 5ms 5ms"},
		"nothing that gRPC knows": {ir.Retry{
			On:    []string{"retriable-4xx", "retriable-status-codes"},
			Codes: []uint32{404},
			Count: 1,
		}, "none"},
		"no retries": {ir.Retry{On: []string{"internal"}}, "none"},
	} {
		got := "none"
		if r := callRetry(c.retry); r != nil {
			got = fmt.Sprintf("%s %d %s %s", r.GetRetryOn(), r.GetNumRetries().GetValue(),
				r.GetRetryBackOff().GetBaseInterval().AsDuration(),
				r.GetRetryBackOff().GetMaxInterval().AsDuration())
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

// TestCallRetriesLeaveOut: the rest of a policy of retries is nothing that a gRPC client takes.
func TestCallRetriesLeaveOut(t *testing.T) {
	r := callRetry(ir.Retry{
		On:              []string{"internal"},
		Count:           1,
		PerTry:          time.Second,
		Reset:           []ir.ResetHeader{{Name: "retry-after"}},
		MaxReset:        time.Minute,
		Codes:           []uint32{503},
		Requests:        []ir.ValueMatch{{Name: "a"}},
		Answers:         []ir.ValueMatch{{Name: "b"}},
		OtherHosts:      true,
		OtherPriorities: 2,
		Selections:      5,
	})
	want := &routev3.RetryPolicy{
		RetryOn:      r.GetRetryOn(),
		NumRetries:   r.GetNumRetries(),
		RetryBackOff: r.GetRetryBackOff(),
	}
	if !proto.Equal(r, want) {
		t.Errorf("got %v", r)
	}
}

// TestCallHeaders: every kind of header match is in the oldest form that says it.
func TestCallHeaders(t *testing.T) {
	m, ok := callMatch(ir.Match{
		Path: "/",
		Headers: []ir.ValueMatch{{
			Name:  "A",
			Kind:  ir.ValuePrefix,
			Value: "p",
		}, {
			Name:  "b",
			Kind:  ir.ValueRegex,
			Value: "r",
		},
			{Name: "c", Value: "e"}, {Name: "d", Kind: ir.ValuePresent}, {Name: "e", Kind: ir.ValueAbsent}},
	})
	if !ok || len(m.GetHeaders()) != 5 {
		t.Fatalf("got %v", m)
	}
	h := m.GetHeaders()
	//lint:ignore SA1019 the fields that every gRPC library reads
	if h[0].GetPrefixMatch() != "p" || h[0].GetName() != "a" {
		t.Errorf("the prefix is %v", h[0])
	}
	//lint:ignore SA1019 as above
	if h[1].GetSafeRegexMatch().GetRegex() != "r" {
		t.Errorf("the expression is %v", h[1])
	}
	//lint:ignore SA1019 as above
	if h[2].GetExactMatch() != "e" {
		t.Errorf("the exact value is %v", h[2])
	}
	if !h[3].GetPresentMatch() || h[3].GetInvertMatch() {
		t.Errorf("the one that must be there is %v", h[3])
	}
	if !h[4].GetPresentMatch() || !h[4].GetInvertMatch() {
		t.Errorf("the one that must be absent is %v", h[4])
	}
}

// TestCallWeights: gRPC refuses routes whose weights are nothing in sum, or more than 32 bits hold.
func TestCallWeights(t *testing.T) {
	backends := func(weights ...uint32) *ir.Route {
		r := &ir.Route{Match: ir.Match{Path: "/"}}
		for i, w := range weights {
			r.Backends = append(r.Backends, ir.Backend{Cluster: fmt.Sprint("c", i), Weight: w})
		}
		return r
	}
	if a := callAction(backends(0, 0)); a.GetCluster() != MissingBackend {
		t.Errorf("backends of no weight: %v", a)
	}
	var sum uint64
	a := callAction(backends(math.MaxUint32, math.MaxUint32, 1, 0))
	list := a.GetWeightedClusters().GetClusters()
	for _, c := range list {
		sum += uint64(c.GetWeight().GetValue())
	}
	if sum > math.MaxUint32 || list[0].GetWeight().GetValue() != list[1].GetWeight().GetValue() ||
		list[2].GetWeight().GetValue() != 1 || list[3].GetWeight().GetValue() != 0 {
		t.Errorf("weights %v", list)
	}
}

// TestCallEndpointsAreDistinct: an address that is there twice is there once for gRPC, in the better health.
func TestCallEndpointsAreDistinct(t *testing.T) {
	e := ir.Endpoints{Cluster: "c", Endpoints: []ir.Endpoint{
		{Address: "10.0.0.1", Port: 80, Weight: 1, Zone: "a", Health: ir.Unhealthy},
		{Address: "10.0.0.1", Port: 80, Weight: 2, Zone: "a"},
		{Address: "10.0.0.1", Port: 80, Weight: 3, Zone: "b"},
		{Address: "10.0.0.1", Port: 81, Weight: 4, Zone: "b", Health: ir.Draining}}}
	var got []string
	for _, l := range CallEndpoints(e).GetEndpoints() {
		for _, ep := range l.GetLbEndpoints() {
			got = append(got,
				fmt.Sprintf("%s %d %s of %d", l.GetLocality().GetZone(),
					ep.GetLoadBalancingWeight().GetValue(), ep.GetHealthStatus(),
					l.GetLoadBalancingWeight().GetValue()))
		}
	}
	if want := []string{"a 2 UNKNOWN of 2", "b 4 DRAINING of 4"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
