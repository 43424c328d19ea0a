package compile

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/selector"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

func number(n int64) *meshv1.IntOrString {
	return &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: n}}
}

func text(s string) *meshv1.IntOrString {
	return &meshv1.IntOrString{Value: &meshv1.IntOrString_StringValue{StringValue: s}}
}

func TestBalancer(t *testing.T) {
	type lb = meshv1.MeshLoadBalancingStrategy_LoadBalancer
	for _, tc := range []struct {
		name string
		in   *lb
		want ir.LoadBalancer
	}{
		{"nothing said", nil, ir.LoadBalancer{}},
		{"round robin", &lb{Type: "RoundRobin"}, ir.LoadBalancer{}},
		{"random", &lb{Type: "Random"}, ir.LoadBalancer{Algorithm: ir.Random}},
		{"least request", &lb{
			Type: "LeastRequest",
			LeastRequest: &meshv1.MeshLoadBalancingStrategy_LeastRequest{
				ChoiceCount:       new(uint32(4)),
				ActiveRequestBias: text("1.5"),
			},
		},
			ir.LoadBalancer{Algorithm: ir.LeastRequest, Choices: 4, Bias: 1.5, HasBias: true}},
		{"choices without end", &lb{
			Type: "LeastRequest",

			LeastRequest: &meshv1.MeshLoadBalancingStrategy_LeastRequest{
				ChoiceCount: new(uint32(math.MaxUint32)),
			},
		},
			ir.LoadBalancer{Algorithm: ir.LeastRequest, Choices: maxChoices}},
		{"a bias of nothing", &lb{
			Type:         "LeastRequest",
			LeastRequest: &meshv1.MeshLoadBalancingStrategy_LeastRequest{ActiveRequestBias: number(0)},
		},
			ir.LoadBalancer{Algorithm: ir.LeastRequest, HasBias: true}},
		{"a body that the type does not name", &lb{
			Type:     "RoundRobin",
			RingHash: &meshv1.MeshLoadBalancingStrategy_RingHash{MinRingSize: new(uint32(7))},
		}, ir.LoadBalancer{}},
		{"ring", &lb{
			Type: "RingHash",
			RingHash: &meshv1.MeshLoadBalancingStrategy_RingHash{
				HashFunction: "MurmurHash2",
				MinRingSize:  new(uint32(7)),
				MaxRingSize:  new(uint32(9)),
			},
		},
			ir.LoadBalancer{Algorithm: ir.RingHash, Murmur: true, MinRing: 7, MaxRing: 9}},
		{"a ring whose bounds cross", &lb{
			Type: "RingHash",
			RingHash: &meshv1.MeshLoadBalancingStrategy_RingHash{
				MinRingSize: new(uint32(70)),
				MaxRingSize: new(uint32(9)),
			},
		},
			ir.LoadBalancer{Algorithm: ir.RingHash, MinRing: 9, MaxRing: 9}},
		{"a ring smaller than the smallest by default", &lb{
			Type:     "RingHash",
			RingHash: &meshv1.MeshLoadBalancingStrategy_RingHash{MaxRingSize: new(uint32(9))},
		},
			ir.LoadBalancer{Algorithm: ir.RingHash, MinRing: 9, MaxRing: 9}},
		{"maglev", &lb{
			Type:   "Maglev",
			Maglev: &meshv1.MeshLoadBalancingStrategy_Maglev{TableSize: new(uint32(65537))},
		}, ir.LoadBalancer{
			Algorithm: ir.Maglev,
			Table:     65537,
		}},
		{"a table of no prime", &lb{
			Type:   "Maglev",
			Maglev: &meshv1.MeshLoadBalancingStrategy_Maglev{TableSize: new(uint32(1000))},
		}, ir.LoadBalancer{
			Algorithm: ir.Maglev,
			Table:     1009,
		}},
		{"the largest table", &lb{
			Type:   "Maglev",
			Maglev: &meshv1.MeshLoadBalancingStrategy_Maglev{TableSize: new(uint32(maxTable))},
		}, ir.LoadBalancer{
			Algorithm: ir.Maglev,
			Table:     maxTable,
		}},
	} {
		if diff := cmp.Diff(tc.want, balancer(tc.in)); diff != "" {
			t.Errorf("%s:\n%s", tc.name, diff)
		}
	}
}

func TestHashPolicies(t *testing.T) {
	type hash = meshv1.MeshLoadBalancingStrategy_HashPolicy
	header := func(name string) *hash {
		return &hash{Type: "Header", Header: &meshv1.MeshLoadBalancingStrategy_HashHeader{Name: name}}
	}
	all := []*hash{
		header("x-user"),
		{
			Type:     "Cookie",
			Terminal: new(true),
			Cookie: &meshv1.MeshLoadBalancingStrategy_HashCookie{
				Name: "c",
				Ttl:  durationpb.New(time.Minute),
				Path: new("/a"),
			},
		},
		{
			Type:       "Connection",
			Connection: &meshv1.MeshLoadBalancingStrategy_HashConnection{SourceIp: new(true)},
		},
		{Type: "Connection", Connection: &meshv1.MeshLoadBalancingStrategy_HashConnection{}},
		{Type: "SourceIP"},
		{
			Type:           "QueryParameter",
			QueryParameter: &meshv1.MeshLoadBalancingStrategy_HashQueryParameter{Name: "q"},
		},
		{Type: "FilterState", FilterState: &meshv1.MeshLoadBalancingStrategy_HashFilterState{Key: "k"}},
		header("x\r\ny"),
	}
	want := []ir.HashPolicy{
		{Name: "x-user"},
		{Source: ir.HashCookie, Name: "c", TTL: time.Minute, HasTTL: true, Path: "/a", Terminal: true},
		{Source: ir.HashSourceIP}, {Source: ir.HashSourceIP},
		{Source: ir.HashQuery, Name: "q"}, {Source: ir.HashFilterState, Name: "k"},
	}
	in := func(conf *meshv1.MeshLoadBalancingStrategy_Conf) []ir.HashPolicy {
		return hashPolicies(conf)
	}
	if diff := cmp.Diff(want, in(&meshv1.MeshLoadBalancingStrategy_Conf{HashPolicies: all})); diff != "" {
		t.Error(diff)
	}
	// Users write the old fields, so they have to work.
	old := &meshv1.MeshLoadBalancingStrategy_LoadBalancer{
		Type: "Maglev",
		//lint:ignore SA1019 as above
		Maglev: &meshv1.MeshLoadBalancingStrategy_Maglev{HashPolicies: []*hash{header("old")}},
		//lint:ignore SA1019 as above
		RingHash: &meshv1.MeshLoadBalancingStrategy_RingHash{HashPolicies: []*hash{header("inert")}},
	}
	if diff := cmp.Diff([]ir.HashPolicy{{Name: "old"}},
		in(&meshv1.MeshLoadBalancingStrategy_Conf{LoadBalancer: old})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]ir.HashPolicy{{Name: "new"}}, in(&meshv1.MeshLoadBalancingStrategy_Conf{
		LoadBalancer: old,
		HashPolicies: []*hash{header("new")},
	})); diff != "" {
		t.Error(diff)
	}
	if got := hashPolicies(nil); got != nil {
		t.Errorf("nothing said: %v", got)
	}
}

type (
	localities = meshv1.MeshLoadBalancingStrategy_LocalityAwareness
	localZone  = meshv1.MeshLoadBalancingStrategy_LocalZone
	affinity   = meshv1.MeshLoadBalancingStrategy_AffinityTag
	crossZone  = meshv1.MeshLoadBalancingStrategy_CrossZone
	failover   = meshv1.MeshLoadBalancingStrategy_Failover
	from       = meshv1.MeshLoadBalancingStrategy_FailoverFrom
	target     = meshv1.MeshLoadBalancingStrategy_FailoverTo
	threshold  = meshv1.MeshLoadBalancingStrategy_FailoverThreshold
)

func locality(t *testing.T, c *localities, tags map[string]string) Locality {
	t.Helper()
	l := NewLocality(awareness(c), "east", tags)
	back, _ := l.Share().Get()
	if diff := cmp.Diff(l, back); diff != "" {
		t.Fatalf("sharing loses something:\n%s", diff)
	}
	return l
}

func TestLocality(t *testing.T) {
	if (Locality{}).Share() != (ir.Shared[Locality]{}) {
		t.Error("nothing said is something")
	}
	tags := map[string]string{"node": "n1", "rack": "r1"}
	three := &localZone{AffinityTags: []*affinity{{Key: "node"}, {Key: "lacking"}, {Key: "rack"}}}
	for _, tc := range []struct {
		name string
		in   *localities
		want Locality
	}{
		{"nothing said", nil, Locality{}},
		{"an empty one", &localities{}, Locality{}},
		{"disabled", &localities{Disabled: new(true)}, Locality{Spread: true}},
		{"rules override disabled", &localities{
			Disabled:  new(true),
			LocalZone: &localZone{},
		}, Locality{
			Chosen:           true,
			Overprovisioning: 200,
		}},
		{"tags that the caller has", &localities{LocalZone: three}, Locality{
			Chosen:           true,
			Weighted:         true,
			Overprovisioning: 200,
			Affinity:         []Affinity{{"node", "n1", 900}, {"rack", "r1", 9}},
		}},
		{"weights", &localities{LocalZone: &localZone{AffinityTags: []*affinity{{
			Key:    "node",
			Weight: new(uint32(5)),
		}}}},
			Locality{
				Chosen:           true,
				Weighted:         true,
				Overprovisioning: 200,
				Affinity:         []Affinity{{"node", "n1", 5}},
			}},
		{"steps", &localities{CrossZone: &crossZone{Failover: []*failover{
			{From: &from{Zones: []string{"west"}}, To: &target{Type: "Any"}},
			{To: &target{Type: "None"}},
			{
				From: &from{Zones: []string{"west", "east"}},
				To:   &target{Type: "Only", Zones: []string{"north"}},
			},
			{To: &target{Type: "AnyExcept", Zones: []string{"south"}}},
			{To: &target{Type: "Any"}},
		}}}, Locality{
			Chosen:           true,
			Overprovisioning: 200,
			Failover: []Failover{
				{
					Priority: 3,
					Zones:    []string{"north"},
				}, {
					Priority: 4,
					Except:   true,
					Zones:    []string{"south"},
				}, {
					Priority: 5,
					Except:   true,
				}},
		}},
		{"threshold 70",
			&localities{CrossZone: &crossZone{FailoverThreshold: &threshold{Percentage: number(70)}}},
			Locality{
				Chosen:           true,
				Overprovisioning: 143,
			}},

		{"threshold 100",
			&localities{CrossZone: &crossZone{FailoverThreshold: &threshold{Percentage: number(100)}}},
			Locality{
				Chosen:           true,
				Overprovisioning: 100,
			}},

		{"threshold 0.5",
			&localities{CrossZone: &crossZone{FailoverThreshold: &threshold{Percentage: text("0.5")}}},
			Locality{
				Chosen:           true,
				Overprovisioning: 20000,
			}},
	} {
		if diff := cmp.Diff(tc.want, locality(t, tc.in, tags)); diff != "" {
			t.Errorf("%s:\n%s", tc.name, diff)
		}
	}
	steps := locality(t, &localities{CrossZone: &crossZone{Failover: []*failover{
		{To: &target{
			Type:  "Only",
			Zones: []string{"north"},
		}}, {To: &target{Type: "None"}}, {To: &target{
			Type:  "AnyExcept",
			Zones: []string{"south"},
		}}}}}, nil)
	for zone, want := range map[string]uint32{"north": 1, "west": 3, "south": 0} {
		if p, ok := steps.far(zone); p != want || ok != (want > 0) {
			t.Errorf("zone %s: priority %d, %t, want %d", zone, p, ok, want)
		}
	}
}

func TestAssemble(t *testing.T) {
	dp := func(name, address string, tags, labels map[string]string) *Instance {
		return &Instance{
			Proxy: selector.Proxy{
				Key:    mesh.Key{Kind: mesh.KindDataplane, Mesh: "m", Zone: "east", Name: name},
				Labels: labels,
				Tags:   []map[string]string{tags},
			},
			Inbounds: []InstanceInbound{{Address: address, Port: 80, Tags: tags}},
		}
	}
	instances := []*Instance{
		dp("a", "10.0.0.1", map[string]string{"s": "x", "node": "n1", "rack": "r1"}, nil),
		dp("b", "10.0.0.2", map[string]string{"s": "x"}, map[string]string{"rack": "r1"}),
		dp("c", "10.0.0.3", map[string]string{"s": "x", "node": "n2"}, nil),
	}
	remotes := []Remote{
		{
			Zone:    "west",
			Healthy: 3,
			Ingresses: []ir.Endpoint{{
				Address: "192.0.2.1",
				Port:    1,
				Zone:    "west",
			}, {
				Address: "192.0.2.2",
				Port:    1,
				Zone:    "west",
			}},
		},
		{Zone: "north", Healthy: 2, Ingresses: []ir.Endpoint{{Address: "192.0.2.3", Port: 1, Zone: "north"}}},
	}
	sel := &meshv1.MeshService_Selector{DataplaneTags: map[string]string{"s": "x"}}
	near := func(address, sub string, weight, locality uint32) ir.Endpoint {
		return ir.Endpoint{
			Address:        address,
			Port:           80,
			Weight:         weight,
			Zone:           "east",
			SubZone:        sub,
			LocalityWeight: locality,
		}
	}
	far := func(zone, address string, priority, weight, locality uint32) ir.Endpoint {
		return ir.Endpoint{
			Address:        address,
			Port:           1,
			Weight:         weight,
			Zone:           zone,
			Priority:       priority,
			LocalityWeight: locality,
			Behind:         map[string]uint32{"west": 3, "north": 2}[zone],
		}
	}
	tags := &localZone{AffinityTags: []*affinity{{Key: "node"}, {Key: "rack"}}}
	for _, tc := range []struct {
		name  string
		l     Locality
		other bool
		want  []ir.Endpoint
	}{
		{"nothing said", Locality{}, false,
			[]ir.Endpoint{near("10.0.0.1", "", 1, 0), near("10.0.0.2", "", 1, 0), near("10.0.0.3", "", 1, 0),
				far("north", "192.0.2.3", 1, 4, 0), far("west", "192.0.2.1", 1, 3, 0),
				far("west", "192.0.2.2", 1, 3, 0)}},
		{"disabled: an instance is an instance", Locality{Spread: true}, false,
			[]ir.Endpoint{near("10.0.0.1", "", 2, 0), near("10.0.0.2", "", 2, 0), near("10.0.0.3", "", 2, 0),
				far("north", "192.0.2.3", 0, 4, 0), far("west", "192.0.2.1", 0, 3, 0),
				far("west", "192.0.2.2", 0, 3, 0)}},
		{"tags alone: no other zone",
			locality(t, &localities{LocalZone: tags}, map[string]string{"node": "n1", "rack": "r1"}), false,
			[]ir.Endpoint{near("10.0.0.3", "", 1, 1), near("10.0.0.1", "node=n1", 1, 90),
				near("10.0.0.2", "rack=r1", 1, 9)}},
		{"a caller without the tags: weights all the same", locality(t, &localities{LocalZone: tags}, nil),
			false,
			[]ir.Endpoint{near("10.0.0.1", "", 1, 1), near("10.0.0.2", "", 1, 1),
				near("10.0.0.3", "", 1, 1)}},
		{"tags and zones", locality(t, &localities{
			LocalZone: tags,
			CrossZone: &crossZone{Failover: []*failover{
				{To: &target{Type: "Only", Zones: []string{"west"}}}, {To: &target{Type: "Any"}}}},
		}, map[string]string{"rack": "r1"}), false,
			[]ir.Endpoint{near("10.0.0.3", "", 1, 1), near("10.0.0.1", "rack=r1", 1, 9),
				near("10.0.0.2", "rack=r1", 1, 9),
				far("west", "192.0.2.1", 1, 3, 3), far("west", "192.0.2.2", 1, 3, 3),
				far("north", "192.0.2.3", 2, 4, 2)}},
		{"a service of another zone has no choice of zones", locality(t, &localities{LocalZone: tags}, nil),
			true,
			[]ir.Endpoint{far("north", "192.0.2.3", 1, 4, 2), far("west", "192.0.2.1", 1, 3, 3),
				far("west", "192.0.2.2", 1, 3, 3)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var local []ir.Endpoint
			if !tc.other {
				local = LocalEndpoints(sel, Port{TargetNumber: 80}, instances, tc.l)
			}
			if diff := cmp.Diff(tc.want, Assemble(local, remotes, tc.l, !tc.other)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFitWeights(t *testing.T) {
	list := []ir.Endpoint{{
		Zone:           "a",
		LocalityWeight: math.MaxUint32,
	}, {
		Zone:           "a",
		LocalityWeight: math.MaxUint32,
		Address:        "2",
	},
		{
			Zone:           "b",
			LocalityWeight: math.MaxUint32,
		}, {
			Zone:           "c",
			LocalityWeight: 1,
		}, {
			Zone:           "d",
			Priority:       1,
			LocalityWeight: 5,
		}}
	fitWeights(list)
	sum := uint64(list[0].LocalityWeight) + uint64(list[2].LocalityWeight) + uint64(list[3].LocalityWeight)
	if sum > math.MaxUint32 || list[0].LocalityWeight != list[1].LocalityWeight ||
		list[3].LocalityWeight == 0 || list[4].LocalityWeight != 5 {
		t.Errorf("%v", list)
	}
}

func TestTCPBackends(t *testing.T) {
	key := func(name string) mesh.Key {
		return mesh.Key{Kind: mesh.KindMeshService, Mesh: "m", Zone: "east", Name: name}
	}
	self := Ref{Key: key("self"), Section: "tcp"}
	owner := &mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTCPRoute, Mesh: "m", Name: "r"}}
	resolve := func(b *meshv1.BackendRef, _ mesh.Key) (Ref, bool) {
		return Ref{Key: key(b.GetName()), Section: "tcp"}, b.GetName() != "missing"
	}
	ref := func(name string, weight uint32) *meshv1.BackendRef {
		return &meshv1.BackendRef{Kind: "MeshService", Name: name, Weight: &weight}
	}
	other := Ref{Key: key("other"), Section: "tcp"}
	for _, tc := range []struct {
		name  string
		refs  []*meshv1.BackendRef
		want  []ir.Backend
		extra []Ref
	}{
		{"no rule: itself", nil, []ir.Backend{{Cluster: self.KRI(), Weight: 1}}, nil},
		{"split", []*meshv1.BackendRef{ref("self", 9), ref("other", 1)}, []ir.Backend{{
			Cluster: self.KRI(),
			Weight:  9,
		}, {
			Cluster: other.KRI(),
			Weight:  1,
		}}, []Ref{other}},
		{"a weight of nothing", []*meshv1.BackendRef{ref("self", 0), ref("other", 10)}, []ir.Backend{{
			Cluster: other.KRI(),
			Weight:  10,
		}}, []Ref{other}},
		{"a share without a backend keeps its weight",
			[]*meshv1.BackendRef{ref("missing", 5), ref("other", 5)}, []ir.Backend{{Weight: 5}, {
				Cluster: other.KRI(),
				Weight:  5,
			}}, []Ref{other}},
		{"all weights 0", []*meshv1.BackendRef{ref("self", 0), ref("other", 0)}, nil, nil},
		{"no backend found", []*meshv1.BackendRef{ref("missing", 1)}, nil, nil},
	} {
		got, extra := TCPBackends(self, policy.TCPRule{BackendRefs: tc.refs, Policy: owner}, resolve)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s:\n%s", tc.name, diff)
		}
		if diff := cmp.Diff(tc.extra, extra); diff != "" {
			t.Errorf("%s:\n%s", tc.name, diff)
		}
	}
}

func TestTCPTakes(t *testing.T) {
	for _, tc := range []struct {
		protocol        ir.Protocol
		tcp, http, want bool
	}{
		{ir.HTTP1, false, false, false}, {ir.HTTP1, false, true, false}, {ir.GRPC, true, true, false},
		{ir.HTTP2, true, false, true},
		{ir.TCP, true, true, true}, {ir.Kafka, true, false, true}, {ir.TCP, false, true, false},
	} {
		if got := TCPTakes(Port{Protocol: tc.protocol}, tc.tcp, tc.http); got != tc.want {
			t.Errorf("%+v: %t", tc, got)
		}
	}
}
