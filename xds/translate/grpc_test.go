package translate

import (
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// TestCallRoutes: which routes a gRPC client gets, in what order, and where they lead.
func TestCallRoutes(t *testing.T) {
	to := func(m ir.Match, backends ...ir.Backend) ir.Route {
		return ir.Route{Match: m, Backends: backends, RoutePolicy: ir.RoutePolicy{Timeouts: ir.RouteTimeouts{Request: 3 * time.Second, StreamIdle: time.Hour}}}
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
	got := CallRoutes(ir.RouteConfig{Name: "n", Retry: ir.Share(ir.Retry{Count: 5, Base: 25 * time.Millisecond, Max: 250 * time.Millisecond}), Routes: []ir.Route{
		to(ir.Match{Path: "/q", Query: []ir.ValueMatch{{Name: "a"}}}, a),
		to(ir.Match{Path: "/g", Method: "GET"}, a),
		to(ir.Match{Path: "/p", Method: "POST"}, a),
		redirect, answer, rewritten,
		to(ir.Match{Path: "/2", Headers: []ir.ValueMatch{{Name: "X-A", Kind: ir.ValueAbsent}}}, a, ir.Backend{Weight: 1}),
	}})
	vh := got.GetVirtualHosts()[0]
	if r := vh.GetRetryPolicy(); r.GetRetryOn() != "unavailable" || r.GetNumRetries().GetValue() != 4 {
		t.Errorf("retries %v", r)
	}
	want := []string{"/p a", "/r " + MissingBackend, "/s " + MissingBackend, "/w a", "/2 a:3 " + MissingBackend + ":1"}
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
		if r.GetRoute().GetTimeout() != nil || r.GetRoute().GetRegexRewrite() != nil || len(r.GetRoute().GetRequestMirrorPolicies()) > 0 || len(r.GetRequestHeadersToRemove()) > 0 {
			t.Errorf("%s has what gRPC does not take: %v", text, r)
		}
	}
	if strings.Join(have, "\n") != strings.Join(want, "\n") {
		t.Errorf("routes\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	h := vh.GetRoutes()[4].GetMatch().GetHeaders()[0]
	if present, ok := h.GetHeaderMatchSpecifier().(*routev3.HeaderMatcher_PresentMatch); !ok || !present.PresentMatch || !h.GetInvertMatch() || h.GetName() != "x-a" {
		t.Errorf("absent is %v", h)
	}
	for i, r := range vh.GetRoutes() {
		if r.GetRoute().GetRetryPolicy() != nil != (i == 1 || i == 2) {
			t.Errorf("only what leads to nobody is not retried: %v", r)
		}
	}
}
