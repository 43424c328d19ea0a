package xds

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/delta"
)

var update = flag.Bool("update", false, "write the golden files again")

const goldenDir = "translate/testdata"

// TestGolden compiles inputs as users write them and compares what a proxy gets. An input is
// NAME.in.yaml; comments of it steer: "# proxy NAME" (a Dataplane, or a ZoneIngress), "# member
// MZSVC ZONE SERVICE HEALTHY PORT" (what global computes), "# identity" (the proxy has a
// certificate). Resources that only zones create are of zone east unless their label kuma.io/zone
// says otherwise.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob(goldenDir + "/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	want := map[string]bool{}
	for _, in := range inputs {
		name := strings.TrimSuffix(filepath.Base(in), ".in.yaml")
		out := filepath.Join(goldenDir, name+".out.yaml")
		want[out] = true
		t.Run(name, func(t *testing.T) {
			table := compileFile(t, in)
			got := dump(t, table)
			if *update {
				if err := os.WriteFile(out, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(out)
			if err != nil {
				t.Fatalf("%v; write it with: go test ./xds -run TestGolden -update", err)
			}
			if diff := cmp.Diff(string(golden), string(got)); diff != "" {
				t.Errorf("differs from %s (-want +got):\n%s", out, diff)
			}
			envoyValidates(t, table)
		})
	}
	outputs, _ := filepath.Glob(goldenDir + "/*.out.yaml")
	for _, o := range outputs {
		if !want[o] {
			t.Errorf("%s has no input: delete it", o)
		}
	}
}

func compileFile(t *testing.T, path string) *delta.Table {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return compileText(t, data)
}

// compileText is what the proxy named in the text has; more are resources that text does not hold.
func compileText(t *testing.T, data []byte, more ...*mesh.Resource) *delta.Table {
	t.Helper()
	docs, err := codec.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	rs := more
	for _, d := range docs {
		r := d.Resource
		info, _ := mesh.Lookup(r.Key.Kind)
		if z := r.Labels[mesh.LabelZone]; z != "" {
			r.Key.Zone = z
		} else if info.Writers == mesh.ZoneOnly || info.Writers == mesh.ReadOnly {
			r.Key.Zone = testZone
		}
		if r.Key.Kind == mesh.KindVirtualAddress {
			r.Key = mesh.VirtualAddressKey(testZone,
				mesh.KeyFromProto(mesh.Spec[*meshv1.VirtualAddress](r).GetDestination()))
		}
		if _, err := validate.Resource(r); err != nil {
			t.Fatalf("%s: %v", r.Key, err)
		}
		rs = append(rs, r)
	}
	w.put(rs...)
	var proxy mesh.Key
	status := map[string]*meshv1.MeshMultiZoneServiceStatus{}
	identity := false
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "#" {
			continue
		}
		switch f[1] {
		case "identity":
			identity = true
		case "proxy":
			for _, r := range rs {
				if r.Key.Name == f[2] &&
					(r.Key.Kind == mesh.KindDataplane || r.Key.Kind == mesh.KindZoneIngress) {
					proxy = r.Key
				}
			}
		case "member":
			healthy, _ := strconv.Atoi(f[5])
			port, _ := strconv.Atoi(f[6])
			if status[f[2]] == nil {
				status[f[2]] = &meshv1.MeshMultiZoneServiceStatus{}
			}
			status[f[2]].MeshServices = append(status[f[2]].MeshServices,
				&meshv1.MeshMultiZoneServiceStatus_Member{
					Name:       f[4],
					Zone:       f[3],
					Mesh:       "default",
					Ports:      []uint32{uint32(port)},
					Healthy:    uint32(healthy),
					Total:      uint32(healthy),
					Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: f[4]}},
				})
		}
	}
	for name, s := range status {
		w.status(mesh.Key{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: name}, s)
	}
	if proxy.Name == "" {
		t.Fatal("the input names no proxy")
	}
	if identity {
		w.e.SetIdentity(proxy, testIdentity)
	}
	w.open(proxy)
	if p := w.e.Progress(); len(p.Rejections) > 0 {
		t.Fatalf("the control plane rejects: %v", p.Rejections)
	}
	return w.table(proxy)
}

func message(t testing.TB, r *delta.Resource) proto.Message {
	t.Helper()
	var m proto.Message
	switch r.Type {
	case delta.TypeCluster:
		m = &clusterv3.Cluster{}
	case delta.TypeEndpoint:
		m = &endpointv3.ClusterLoadAssignment{}
	case delta.TypeListener:
		m = &listenerv3.Listener{}
	case delta.TypeRoute:
		m = &routev3.RouteConfiguration{}
	case delta.TypeSecret:
		m = &tlsv3.Secret{}
	}
	if err := proto.Unmarshal(r.Body, m); err != nil {
		t.Fatal(err)
	}
	return m
}

// dump is a table as YAML, by type and name.
func dump(t *testing.T, table *delta.Table) []byte {
	t.Helper()
	all := map[string][]any{}
	for _, typ := range delta.Types {
		for r := range table.All(typ) {
			m := message(t, r)
			if s, ok := m.(*tlsv3.Secret); ok {
				s.Type = nil // made for each run
			}
			j, err := protojson.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := json.Unmarshal(j, &v); err != nil {
				t.Fatal(err)
			}
			all[typ.String()+"s"] = append(all[typ.String()+"s"], v)
		}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(all); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// envoyValidates has a real Envoy check a table, wrapped as a static bootstrap: routes go inline, and
// load assignments into static clusters, for what comes by xDS is not looked at in this mode.
func envoyValidates(t *testing.T, table *delta.Table) {
	t.Helper()
	envoy, _ := envoytest.Find()
	if envoy == "" {
		return
	}
	ads := &corev3.ApiConfigSource{
		ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
		TransportApiVersion: corev3.ApiVersion_V3,

		GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "ads"},
		}}},
	}
	b := &bootstrapv3.Bootstrap{
		Node:             &corev3.Node{Id: "test", Cluster: "test"},
		StaticResources:  &bootstrapv3.Bootstrap_StaticResources{},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{AdsConfig: ads},
	}
	b.StaticResources.Clusters = append(b.StaticResources.Clusters,
		staticCluster("ads", &endpointv3.ClusterLoadAssignment{ClusterName: "ads"}))
	for _, typ := range delta.Types {
		for r := range table.All(typ) {
			switch m := message(t, r).(type) {
			case *clusterv3.Cluster:
				b.StaticResources.Clusters = append(b.StaticResources.Clusters, m)
			case *endpointv3.ClusterLoadAssignment:
				m.ClusterName = "check_" + m.ClusterName
				b.StaticResources.Clusters = append(b.StaticResources.Clusters,
					staticCluster(m.ClusterName, m))
			case *listenerv3.Listener:
				checkConnections(t, table, m)
				inlineRoutes(t, m, table)
				b.StaticResources.Listeners = append(b.StaticResources.Listeners, m)
			case *tlsv3.Secret:
				b.StaticResources.Secrets = append(b.StaticResources.Secrets, m)
			}
		}
	}
	j, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, j, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(envoy, "--mode", "validate", "-c", path, "-l",
		"error").CombinedOutput(); err != nil {
		t.Errorf("Envoy rejects it: %v\n%s", err, out)
	}
}

func staticCluster(name string, la *endpointv3.ClusterLoadAssignment) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment:                la,
		TypedExtensionProtocolOptions: map[string]*anypb.Any{},
	}
}

func inlineRoutes(t *testing.T, l *listenerv3.Listener, table *delta.Table) {
	t.Helper()
	for _, c := range l.FilterChains {
		for _, f := range c.Filters {
			h := &hcmv3.HttpConnectionManager{}
			if !f.GetTypedConfig().MessageIs(h) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(h); err != nil {
				t.Fatal(err)
			}
			if h.GetRds() == nil {
				continue
			}
			r := table.Lookup(delta.TypeRoute, h.GetRds().GetRouteConfigName())
			if r == nil {
				t.Fatalf("listener %s asks for routes %s, which are not there", l.Name,
					h.GetRds().GetRouteConfigName())
			}
			rc := message(t, r).(*routev3.RouteConfiguration)
			rc.ValidateClusters = wrapperspb.Bool(false)
			for _, vh := range rc.VirtualHosts {
				for _, route := range vh.Routes {
					checkCluster(t, table, route.GetRoute())
				}
			}
			h.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
			a, err := anypb.New(h)
			if err != nil {
				t.Fatal(err)
			}
			f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: a}
		}
	}
}

// checkReferences fails if a listener asks for routes, or connections or requests go to a cluster,
// that are not there.
func checkReferences(t *testing.T, table *delta.Table) {
	t.Helper()
	for r := range table.All(delta.TypeListener) {
		l := message(t, r).(*listenerv3.Listener)
		checkConnections(t, table, l)
		inlineRoutes(t, l, table)
	}
}

// checkConnections is [checkCluster] for connections.
func checkConnections(t *testing.T, table *delta.Table, l *listenerv3.Listener) {
	t.Helper()
	if strings.HasPrefix(l.Name, "self_transparentproxy_") {
		return // without passthrough its cluster is missing on purpose
	}
	for _, c := range l.FilterChains {
		for _, f := range c.Filters {
			p := &tcpv3.TcpProxy{}
			if !f.GetTypedConfig().MessageIs(p) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(p); err != nil {
				t.Fatal(err)
			}
			names := []string{p.GetCluster()}
			for _, w := range p.GetWeightedClusters().GetClusters() {
				names = append(names, w.GetName())
			}
			for _, n := range names {
				if n != "" && n != "missing_backend" && table.Lookup(delta.TypeCluster, n) == nil {
					t.Errorf("connections of %s go to %s, which is not a cluster", l.Name, n)
				}
			}
		}
	}
}

// checkCluster fails for a route to a cluster that the proxy does not have and that is not meant to
// be missing.
func checkCluster(t *testing.T, table *delta.Table, a *routev3.RouteAction) {
	t.Helper()
	names := []string{a.GetCluster()}
	for _, w := range a.GetWeightedClusters().GetClusters() {
		names = append(names, w.GetName())
	}
	for _, n := range names {
		if n != "" && n != "missing_backend" &&
			(table.Lookup(delta.TypeCluster, n) == nil || table.Lookup(delta.TypeEndpoint, n) == nil) {
			t.Errorf("a route goes to %s, which has no cluster or no endpoints", n)
		}
	}
}
