package xds

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

var (
	rounds     = flag.Int("rounds", 600, "sets of random policies")
	policySeed = flag.Uint64("policy-seed", 1, "seed of the random policies")
)

// piece is a part of a proxy's configuration that Envoy can look at by itself, and the policies
// that it came from.
type piece struct {
	policies string
	cluster  *clusterv3.Cluster
	listener *listenerv3.Listener
}

// TestAnyPolicy: no policy that can be stored stops a proxy from getting its configuration. Random
// policies of all kinds are compiled, none fails, and a real Envoy accepts all that comes of them.
func TestAnyPolicy(t *testing.T) {
	a := xdstest.NewAuthor(rand.New(rand.NewPCG(*policySeed, 11)))
	var kinds []*mesh.KindInfo
	for _, k := range mesh.Kinds {
		if k.Policy != nil {
			kinds = append(kinds, k)
		}
	}
	modes := []string{"STRICT", "PERMISSIVE", ""}
	worlds := map[string]*world{}
	proxy := mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: testZone, Name: "p"}
	for _, m := range modes {
		worlds[m] = smallMesh(t, m)
		worlds[m].e.SetIdentity(proxy, testIdentity)
		worlds[m].open(proxy)
	}
	seen := map[string]bool{}
	var pieces []piece
	compiled := func(round int, rs []*mesh.Resource) {
		w := worlds[modes[round%len(modes)]]
		w.put(rs...)
		text := yamlOf(rs)
		if p := w.e.Progress(); len(p.Rejections) > 0 {
			t.Fatalf("round %d: the control plane cannot compile it: %v\n%s", round, p.Rejections, text)
		}
		pieces = append(pieces, piecesOf(t, w.table(proxy), text, seen)...)
		for _, r := range rs {
			w.remove(r.Key)
		}
	}
	for round := range walks(*rounds) {
		var rs []*mesh.Resource
		for i := range 1 + a.IntN(4) {
			// Every kind in turn, and others beside it; a route bears the name that others attach to.
			info := kinds[round%len(kinds)]
			if i > 0 {
				info = kinds[a.IntN(len(kinds))]
			}
			name := fmt.Sprintf("x%d", i)
			if info.Kind == mesh.KindMeshHTTPRoute && i == 1 {
				name = "route"
			}
			rs = append(rs, a.Policy(info, name))
		}
		compiled(round, rs)
	}
	// Every form of reference that a kind takes, wherever it takes it, beside the route that some
	// of them are about.
	forms, aimed := map[string]int{}, 0
	routes, _ := mesh.Lookup(mesh.KindMeshHTTPRoute)
	route := a.Policy(routes, "route")
	for _, k := range kinds {
		for _, r := range a.Aimed(k, "x", forms) {
			compiled(aimed, []*mesh.Resource{r, route})
			aimed++
		}
	}
	for form, n := range forms {
		if n == 0 {
			t.Errorf("no kind takes the reference %s: the test looks at less than it should", form)
		}
	}
	t.Logf("%d policies for %d forms of references", aimed, len(forms))
	missing := a.Unreached(kinds)
	t.Logf("%d pieces of configuration; never set: %s", len(pieces), strings.Join(missing, " "))
	if walks(*rounds) >= 600 && len(missing) > 12 {
		t.Errorf("%d fields were never set: the test looks at less than it should: %s", len(missing),
			strings.Join(missing, " "))
	}

	envoy := envoytest.Binary(t)
	failed := 0
	for len(pieces) > 0 {
		n := min(len(pieces), 1500)
		at, out := firstRejected(t, envoy, pieces[:n])
		if at < 0 {
			pieces = pieces[n:]
			continue
		}
		t.Errorf("Envoy rejects what comes of valid policies (replay with -policy-seed=%d):\n%s\n%s\n%s",
			*policySeed, out, pieces[at].policies, pieces[at])
		if failed++; failed == 5 {
			break
		}
		pieces = slices.Delete(pieces, at, at+1)
	}
}

func (p piece) String() string {
	if p.cluster != nil {
		return prototext.Format(p.cluster)
	}
	return prototext.Format(p.listener)
}

// firstRejected halves the pieces until the first that Envoy rejects is left; -1 if it takes all.
func firstRejected(t *testing.T, envoy string, list []piece) (at int, out string) {
	if out = rejects(t, envoy, list); out == "" {
		return -1, ""
	}
	for len(list) > 1 {
		half := len(list) / 2
		if o := rejects(t, envoy, list[:half]); o != "" {
			list, out = list[:half], o
		} else {
			list, at = list[half:], at+half
		}
	}
	return at, cmp.Or(rejects(t, envoy, list), "(only together with others) "+out)
}

func yamlOf(rs []*mesh.Resource) string {
	var b strings.Builder
	for _, r := range rs {
		y, err := codec.EncodeYAML(r)
		if err != nil {
			y = []byte(err.Error())
		}
		b.Write(y)
		b.WriteString("---\n")
	}
	return b.String()
}

// smallMesh has a service of every protocol, near and far, and a proxy that serves and calls all of them.
func smallMesh(t *testing.T, mode string) *world {
	w := newWorld(t)
	dp := &meshv1.Dataplane_Networking{Address: "10.0.0.1"}
	rs := []*mesh.Resource{testMesh(mode),
		resource(mesh.KindSecret, "", "default.ca-builtin-cert-ca-1", &meshv1.Secret{Data: []byte(testCert)})}
	for i, protocol := range []string{"http", "http2", "grpc", "tcp", "kafka"} {
		s := testService(testZone, protocol, 8080)
		port := s.Spec.(*meshv1.MeshService).Ports[0]
		port.Name, port.AppProtocol = "main", protocol
		far := testService("west", "far-"+protocol, 8080)
		far.Spec.(*meshv1.MeshService).Ports[0].AppProtocol = protocol
		rs = append(rs, s, far)
		dp.Inbound = append(dp.Inbound, &meshv1.Dataplane_Inbound{
			Port:     uint32(9000 + i),
			Name:     protocol,
			Protocol: protocol,
			Tags:     map[string]string{mesh.TagService: protocol, "version": "v1", "team": "x"},
		})
		for j, name := range []string{protocol, "far-" + protocol} {
			ref := &meshv1.Dataplane_OutboundBackendRef{Kind: "MeshService", Name: name, Port: 8080}
			if j == 1 {
				ref = &meshv1.Dataplane_OutboundBackendRef{
					Kind:   "MeshService",
					Labels: map[string]string{mesh.LabelDisplayName: name},
					Port:   8080,
				}
			}
			dp.Outbound = append(dp.Outbound, &meshv1.Dataplane_Outbound{
				Port:       uint32(10000 + 10*i + j),
				BackendRef: ref,
			})
		}
		other := testDataplane("o-"+protocol, fmt.Sprintf("10.0.1.%d", i+1), protocol, 8080)
		rs = append(rs, other)
	}
	dp.Outbound = append(dp.Outbound, &meshv1.Dataplane_Outbound{
		Port: 11000,
		BackendRef: &meshv1.Dataplane_OutboundBackendRef{
			Kind: "MeshMultiZoneService",
			Name: "multi",
			Port: 8080,
		},
	})
	p := resource(mesh.KindDataplane, testZone, "p", &meshv1.Dataplane{Networking: dp})
	p.Labels = map[string]string{"app": "p"}
	multi := resource(mesh.KindMeshMultiZoneService, "", "multi", &meshv1.MeshMultiZoneService{
		Selector: &meshv1.MeshMultiZoneService_Selector{
			MeshService: &meshv1.MeshMultiZoneService_MeshServiceSelector{
				MatchLabels: map[string]string{mesh.LabelDisplayName: "http"}}},
		Ports: []*meshv1.MeshMultiZoneService_Port{{Port: 8080, Name: "main", AppProtocol: "http"}},
	})
	ingress := resource(mesh.KindZoneIngress, "west", "ingress", &meshv1.ZoneIngress{
		Zone: "west",
		Networking: &meshv1.ZoneIngress_Networking{
			Address: "10.0.0.9", Port: 10001, AdvertisedAddress: "192.0.2.1", AdvertisedPort: 10001},
	})
	w.put(append(rs, p, multi, ingress)...)
	w.status(multi.Key,
		&meshv1.MeshMultiZoneServiceStatus{MeshServices: []*meshv1.MeshMultiZoneServiceStatus_Member{
			{
				Name:       "http",
				Zone:       testZone,
				Mesh:       "default",
				Ports:      []uint32{8080},
				Healthy:    1,
				Total:      1,
				Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: "http"}},
			},
			{
				Name:       "http",
				Zone:       "west",
				Mesh:       "default",
				Ports:      []uint32{8080},
				Healthy:    3,
				Total:      3,
				Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: "http"}},
			}}})
	return w
}

// piecesOf are the parts of a table that were not seen yet: clusters with their endpoints,
// listeners with their routes.
func piecesOf(t *testing.T, table *delta.Table, policies string, seen map[string]bool) []piece {
	t.Helper()
	var out []piece
	isNew := func(rs ...*delta.Resource) bool {
		var key string
		for _, r := range rs {
			if r != nil {
				key += r.Type.String() + " " + r.Name + " " + r.Version + "\n"
			}
		}
		was := seen[key]
		seen[key] = true
		return !was
	}
	for r := range table.All(delta.TypeCluster) {
		if isNew(r) {
			out = append(out, piece{policies: policies, cluster: message(t, r).(*clusterv3.Cluster)})
		}
		if e := table.Lookup(delta.TypeEndpoint, r.Name); e != nil && isNew(r, e) {
			// As if the endpoints were there from the begin, so that what the cluster does with
			// them is looked at. Envoy cannot ask for secrets before it has clusters, and crashes
			// if the first one would have it.
			c := message(t, r).(*clusterv3.Cluster)
			c.ClusterDiscoveryType, c.EdsClusterConfig, c.TransportSocket = &clusterv3.Cluster_Type{
				Type: clusterv3.Cluster_STATIC}, nil, nil
			c.LoadAssignment = message(t, e).(*endpointv3.ClusterLoadAssignment)
			out = append(out, piece{policies: policies, cluster: c})
		}
	}
	for r := range table.All(delta.TypeListener) {
		l := message(t, r).(*listenerv3.Listener)
		routes := rdsOf(t, l, table, policies)
		if isNew(append(routes, r)...) {
			inlineRoutes(t, l, table)
			out = append(out, piece{policies: policies, listener: l})
		}
	}
	return out
}

// rdsOf are the route configurations that a listener asks for.
func rdsOf(t *testing.T, l *listenerv3.Listener, table *delta.Table, policies string) []*delta.Resource {
	var out []*delta.Resource
	for _, c := range l.FilterChains {
		for _, f := range c.Filters {
			if h := (&hcmv3.HttpConnectionManager{}); f.GetTypedConfig().MessageIs(h) {
				unpack(t, f.GetTypedConfig(), h)
				if name := h.GetRds().GetRouteConfigName(); name != "" {
					r := table.Lookup(delta.TypeRoute, name)
					if r == nil {
						t.Fatalf("listener %s asks for routes %s, which are not there:\n%s", l.Name, name,
							policies)
					}
					out = append(out, r)
				}
			}
		}
	}
	return out
}

// longExpressions is as package bootstrap has it: long identities and long expressions of users are
// no mistake.
func longExpressions() *bootstrapv3.LayeredRuntime {
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: "static",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{
			StaticLayer: &structpb.Struct{
				Fields: map[string]*structpb.Value{
					"re2.max_program_size.error_level": structpb.NewNumberValue(4294967295)}}},
	}}}
}

// rejects gives what Envoy has against the pieces together; empty if nothing. Each gets a name and
// an address of its own.
func rejects(t *testing.T, envoy string, list []piece) string {
	t.Helper()
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
		LayeredRuntime:   longExpressions(),
	}
	b.StaticResources.Clusters = append(b.StaticResources.Clusters,
		staticCluster("ads", &endpointv3.ClusterLoadAssignment{ClusterName: "ads"}))
	for i, p := range list {
		if p.cluster != nil {
			c := proto.Clone(p.cluster).(*clusterv3.Cluster)
			c.Name = fmt.Sprintf("%d/%s", i, c.Name)
			if c.LoadAssignment != nil {
				c.LoadAssignment.ClusterName = c.Name
			}
			b.StaticResources.Clusters = append(b.StaticResources.Clusters, c)
			continue
		}
		l := proto.Clone(p.listener).(*listenerv3.Listener)
		l.Name = fmt.Sprintf("%d/%s", i, l.Name)
		a := l.GetAddress().GetSocketAddress()
		a.Address, a.PortSpecifier = fmt.Sprintf("10.1.%d.%d", i/250, i%250),
			&corev3.SocketAddress_PortValue{PortValue: 80}
		b.StaticResources.Listeners = append(b.StaticResources.Listeners, l)
	}
	raw, err := proto.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bootstrap.pb")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(envoy, "--mode", "validate", "-c", path, "-l", "error").CombinedOutput()
	if err == nil {
		return ""
	}
	text := cmp.Or(string(out), err.Error())
	if len(text) > 2000 {
		text = text[:500] + "\n...\n" + text[len(text)-1500:]
	}
	return text
}
