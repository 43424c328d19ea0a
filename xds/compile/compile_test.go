package compile

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

func TestWeigh(t *testing.T) {
	in := func(zone string, states ...ir.Health) []ir.Endpoint {
		var out []ir.Endpoint
		for i, h := range states {
			out = append(out, ir.Endpoint{Address: zone, Port: uint32(i + 1), Zone: zone, Health: h})
		}
		return out
	}
	for _, tc := range []struct {
		name    string
		remotes []Remote
		want    map[string]uint32 // total weight of a zone's usable addresses
	}{
		{"as many as there are healthy", []Remote{{"a", 3, in("a", 0)}, {"b", 1, in("b", 0)}},
			map[string]uint32{"a": 3, "b": 1}},
		{"addresses share", []Remote{{"a", 3, in("a", 0, 0)}, {"b", 2, in("b", 0, 0, 0)}},
			map[string]uint32{"a": 18, "b": 12}},
		{"lost addresses take no share", []Remote{{"a", 3, in("a", 0, ir.Unhealthy)}, {"b", 2, in("b", 0)}},
			map[string]uint32{"a": 3, "b": 2}},
		{"all lost: the last resort", []Remote{{"a", 3, in("a", ir.Unhealthy)}}, map[string]uint32{"a": 3}},
		{"no healthy instance, or no ingress",
			[]Remote{{"a", 0, in("a", 0)}, {"b", 5, nil}}, map[string]uint32{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := map[string]uint32{}
			for _, e := range Weigh(tc.remotes) {
				if e.Priority != 1 || e.Weight == 0 {
					t.Errorf("endpoint %+v", e)
				}
				lost := e.Health != ir.Healthy
				usable := slices.ContainsFunc(tc.remotes, func(r Remote) bool {
					return r.Zone == e.Zone &&
						slices.ContainsFunc(r.Ingresses,
							func(i ir.Endpoint) bool { return i.Health == ir.Healthy })
				})
				if !lost || !usable {
					got[e.Zone] += e.Weight
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRewriteSlashes(t *testing.T) {
	for _, tc := range []struct{ match, to, exact, below string }{
		{"/v1", "/v2", "/v2", "/v2/"},
		{"/v1", "/", "/", "/"},
		{"/v1/", "/v2/", "/v2", "/v2/"},
		{"/v1", "", "/", "/"},
	} {
		m := &meshv1.MeshHTTPRoute_RouteMatch{Path: &meshv1.MeshHTTPRoute_PathMatch{
			Type:  "PathPrefix",
			Value: tc.match,
		}}
		rewrite := &meshv1.MeshHTTPRoute_PathRewrite{Type: "ReplacePrefixMatch", ReplacePrefixMatch: &tc.to}
		list := paths(m)
		if len(list) != 2 {
			t.Fatalf("%s: %d routes", tc.match, len(list))
		}
		exact, below := ir.Route{Match: list[0]}, ir.Route{Match: list[1]}
		setRewrite(&exact, m, rewrite)
		setRewrite(&below, m, rewrite)
		if exact.ReplacePath == nil || *exact.ReplacePath != tc.exact || below.ReplacePrefix == nil ||
			*below.ReplacePrefix != tc.below {
			t.Errorf("%s to %q: %v, %v", tc.match, tc.to, exact, below)
		}
	}
}

func TestMillionths(t *testing.T) {
	for _, tc := range []struct {
		in   *meshv1.IntOrString
		want uint32
	}{
		{nil, 1_000_000},
		{&meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: 1}}, 10_000},
		{text("0.0001"), 1},
		{text("12.5"), 125_000},
		{text("250"), 1_000_000},
	} {
		if got := millionths(tc.in); got != tc.want {
			t.Errorf("%v: %d, want %d", tc.in, got, tc.want)
		}
	}
}

// TestNames: an address that is not an IP gives no endpoint, and the others stay.
func TestNames(t *testing.T) {
	dp := func(address string) *Instance {
		return NewInstance(&mesh.Resource{
			Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "m", Zone: "z", Name: address},
			Spec: &meshv1.Dataplane{
				Networking: &meshv1.Dataplane_Networking{
					Address: address,
					Inbound: []*meshv1.Dataplane_Inbound{{
						Port: 80,
						Tags: map[string]string{mesh.TagService: "s"},
					}},
				}},
		}, nil)
	}
	got := LocalEndpoints(
		&meshv1.MeshService_Selector{DataplaneTags: map[string]string{mesh.TagService: "s"}}, Port{
			Number:       80,
			TargetNumber: 80,
		},
		[]*Instance{dp("host.example"), dp("localhost"), dp("::1"), dp("10.0.0.1")}, Locality{})
	var addresses []string
	for _, e := range got {
		addresses = append(addresses, e.Address)
	}
	if diff := cmp.Diff([]string{"10.0.0.1", "127.0.0.1", "::1"}, addresses); diff != "" {
		t.Error(diff)
	}
}

// TestSelectorFindsItsOwn: whatever a selector asks for, the range that a proxy is looked up by and
// the range that the proxies are looked up by are two ends of the same pair.
func TestSelectorFindsItsOwn(t *testing.T) {
	dp := &mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindDataplane, Mesh: "m", Zone: "z", Name: "d"},
		Labels: map[string]string{"app": "x"},
		Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: "10.0.0.1",
			Inbound: []*meshv1.Dataplane_Inbound{
				{Port: 80, Tags: map[string]string{mesh.TagService: "s", "version": "1"}}},
		}},
	}
	for name, sel := range map[string]*meshv1.MeshService_Selector{
		"tag":        {DataplaneTags: map[string]string{mesh.TagService: "s"}},
		"tags":       {DataplaneTags: map[string]string{"version": "1", mesh.TagZone: "z"}},
		"zone alone": {DataplaneTags: map[string]string{mesh.TagZone: "z"}},

		"label": {DataplaneLabels: &meshv1.MeshService_DataplaneLabels{
			MatchLabels: map[string]string{"app": "x"},
		}},
		"synthesised": {DataplaneLabels: &meshv1.MeshService_DataplaneLabels{
			MatchLabels: map[string]string{mesh.LabelZone: "z"},
		}},
		"every": {DataplaneLabels: &meshv1.MeshService_DataplaneLabels{}},
		"name":  {DataplaneRef: &meshv1.MeshService_DataplaneRef{Name: "d"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, namespace := range []string{"", "shop"} {
				svc := &mesh.Resource{
					Key: mesh.Key{
						Kind:      mesh.KindMeshService,
						Mesh:      "m",
						Zone:      "z",
						Namespace: namespace,
						Name:      "svc",
					},
					Spec: &meshv1.MeshService{Selector: sel},
				}
				rd := memory{}
				rd.add(dp)
				rd.add(svc)
				if got := Candidates(rd, svc.Key, sel); !slices.Contains(got, dp.Key) {
					t.Errorf("the service of namespace %q does not find the proxy: %v", namespace, got)
				}
				if got := ServicesOf(rd, NewInstance(dp, nil)); len(got) != 1 {
					t.Errorf("the proxy does not find the service of namespace %q: %v", namespace, got)
				}
			}
		})
	}
}

// memory is a Reader over a map.
type memory map[mesh.Key]*mesh.Resource

func (m memory) add(r *mesh.Resource)           { m[r.Key] = r }
func (m memory) Spec(k mesh.Key) *mesh.Resource { return m[k] }
func (m memory) Range(i Index) []mesh.Key {
	var out []mesh.Key
	for k, r := range m {
		if slices.Contains(Indexes(r), i) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, mesh.Key.Compare)
	return out
}

// TestFiltersFoldInOrder: Envoy removes, then sets, then adds; a list of filters is applied in its order.
func TestFiltersFoldInOrder(t *testing.T) {
	t.Parallel()

	type mod = meshv1.MeshHTTPRoute_HeaderModifier
	header := func(name, value string) []*meshv1.MeshHTTPRoute_Header {
		return []*meshv1.MeshHTTPRoute_Header{{Name: name, Value: value}}
	}
	for _, tc := range []struct {
		name    string
		filters []*mod
		want    ir.HeaderEdit
	}{
		{"set, then add", []*mod{{Set: header("a", "1")}, {Add: header("a", "2")}},
			ir.HeaderEdit{
				Set: []ir.Header{{Name: "a", Value: "1"}},
				Add: []ir.Header{{Name: "a", Value: "2"}},
			}},
		{"add, then set", []*mod{{Add: header("a", "1")}, {Set: header("a", "2")}},
			ir.HeaderEdit{Set: []ir.Header{{Name: "a", Value: "2"}}}},
		{"set, then remove", []*mod{{Set: header("a", "1")}, {Remove: []string{"a"}}},
			ir.HeaderEdit{Remove: []string{"a"}}},
		{"remove, then set", []*mod{{Remove: []string{"a"}}, {Set: header("a", "1")}},
			ir.HeaderEdit{Set: []ir.Header{{Name: "a", Value: "1"}}}},
		{"remove, then add", []*mod{{Remove: []string{"a"}}, {Add: header("a", "1")},
			{Add: header("a", "2")}},
			ir.HeaderEdit{
				Set: []ir.Header{{Name: "a", Value: "1"}},
				Add: []ir.Header{{Name: "a", Value: "2"}},
			}},
		{"add twice", []*mod{{Add: header("a", "1")}, {Add: header("a", "2")}},
			ir.HeaderEdit{Add: []ir.Header{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}}},
		{"set to nothing", []*mod{{Set: header("a", "")}},
			ir.HeaderEdit{Set: []ir.Header{{Name: "a"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var f headerFold
			for _, m := range tc.filters {
				f.then(m)
			}
			if diff := cmp.Diff(tc.want, f.edit()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestNumbersAreBoundedAgain: what merging, legacy kinds or an older store bring past validation does not
// become a size, a loop or a period of a proxy.
func TestNumbersAreBoundedAgain(t *testing.T) {
	t.Parallel()

	huge, short := uint32(math.MaxUint32), durationpb.New(time.Nanosecond)
	retry, _ := httpRetry(&meshv1.MeshRetry_Http{
		NumRetries:               &huge,
		PerTryTimeout:            short,
		HostSelectionMaxAttempts: &huge,
		HostSelection: []*meshv1.MeshRetry_HostSelection{{
			Predicate:       "OmitPreviousPriorities",
			UpdateFrequency: &huge,
		}},
	}).Get()
	if retry.Count != maxTries || retry.Selections != maxSelections || retry.OtherPriorities != maxTries ||
		retry.PerTry != time.Millisecond {
		t.Errorf("retries of HTTP: %+v", retry)
	}
	if calls, _ := grpcRetry(&meshv1.MeshRetry_Grpc{NumRetries: &huge}).Get(); calls.Count != maxTries {
		t.Errorf("retries of gRPC: %d", calls.Count)
	}
	var out OutboundConfig
	tcp := Port{Protocol: ir.TCP}
	meshRetryTo(policy.Effective{Conf: &meshv1.MeshRetry_Conf{
		Tcp: &meshv1.MeshRetry_Tcp{MaxConnectAttempt: &huge},
	}}, tcp, &out)
	if out.Listener.ConnectAttempts != maxTries {
		t.Errorf("attempts to connect: %d", out.Listener.ConnectAttempts)
	}
	meshHealthCheckTo(policy.Effective{Conf: &meshv1.MeshHealthCheck_Conf{
		Interval:          short,
		NoTrafficInterval: short,
		Tcp:               &meshv1.MeshHealthCheck_Tcp{},
	}}, tcp, &out)
	if check, _ := out.Cluster.HealthCheck.Get(); check.Interval != minPeriod ||
		check.NoTraffic != minPeriod {
		t.Errorf("periods of checks: %s, %s", check.Interval, check.NoTraffic)
	}
}
