package xds

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

// TestAnyPolicyWhileRunning: a running Envoy takes random policies of all kinds as they come,
// replace each other and go. What it would take at its start (TestAnyPolicy) it could still reject
// as an update. Each change waits for Envoy's answer.
func TestAnyPolicyWhileRunning(t *testing.T) {
	p := resource(mesh.KindDataplane, testZone, "p",
		&meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Address: "127.0.0.1"}})
	p.Labels = map[string]string{"app": "p"}
	n := p.Spec.(*meshv1.Dataplane).Networking
	rs := []*mesh.Resource{testMesh("PERMISSIVE"),
		resource(mesh.KindSecret, "", "default.ca-builtin-cert-ca-1", &meshv1.Secret{Data: []byte(testCert)}),
		resource(mesh.KindMeshMultiZoneService, "", "multi", &meshv1.MeshMultiZoneService{
			Selector: &meshv1.MeshMultiZoneService_Selector{
				MeshService: &meshv1.MeshMultiZoneService_MeshServiceSelector{
					MatchLabels: map[string]string{mesh.LabelDisplayName: "http"}}},
			Ports: []*meshv1.MeshMultiZoneService_Port{{Port: 8080, Name: "main", AppProtocol: "http"}},
		})}
	outbound := func(kind, name string) {
		n.Outbound = append(n.Outbound, &meshv1.Dataplane_Outbound{
			Port:       uint32(unusedPort(t)),
			BackendRef: &meshv1.Dataplane_OutboundBackendRef{Kind: kind, Name: name, Port: 8080},
		})
	}
	for _, protocol := range []string{"http", "http2", "grpc", "tcp"} {
		s := serviceOf(protocol, protocol)
		s.Labels = map[string]string{mesh.LabelDisplayName: protocol}
		rs = append(rs, s, testDataplane("o-"+protocol, "127.0.0.1", protocol, 1))
		n.Inbound = append(n.Inbound, &meshv1.Dataplane_Inbound{
			Port:     uint32(unusedPort(t)),
			Name:     protocol,
			Protocol: protocol,
			Tags:     map[string]string{mesh.TagService: protocol, "version": "v1", "team": "x"},
		})
		outbound("MeshService", protocol)
	}
	outbound("MeshMultiZoneService", "multi")
	l := startLive(t, p.Key, append(rs, p)...)
	l.e.SetIdentity(p.Key, testIdentity)
	l.until(func(p Progress) bool { return p.Online == 1 && p.Acked == p.Revision })

	a := xdstest.NewAuthor(rand.New(rand.NewPCG(*policySeed, 19)))
	var kinds []*mesh.KindInfo
	for _, k := range mesh.Kinds {
		if k.Policy != nil {
			kinds = append(kinds, k)
		}
	}
	var live []mesh.Key // no map, so that a run replays
	concerned := 0
	before, _ := l.e.Config(p.Key)
	for round := range 15 * len(kinds) {
		txn := store.Txn{Author: "test"}
		var put []*mesh.Resource
		for i := range 2 {
			info := kinds[(round+i*a.IntN(len(kinds)))%len(kinds)]
			name := fmt.Sprintf("x%d", i)
			if info.Kind == mesh.KindMeshHTTPRoute && i == 0 {
				name = "route"
			}
			r := a.Policy(info, name)
			put = append(put, r)
			txn.Ops = append(txn.Ops, store.Put{Resource: r})
		}
		live = slices.DeleteFunc(live, func(k mesh.Key) bool {
			if k == put[0].Key || k == put[1].Key {
				return true
			}
			if a.IntN(4) == 0 {
				txn.Ops = append(txn.Ops, store.Delete{Key: k})
				return true
			}
			return false
		})
		live = append(live, put[0].Key, put[1].Key)
		res, err := l.store.Commit(l.ctx, txn)
		if err != nil {
			t.Fatal(err)
		}
		progress := l.until(func(p Progress) bool {
			return p.Revision >= res.Revision && p.Acked >= res.Revision
		})
		if len(progress.Rejections) > 0 || progress.Online != 1 {
			t.Fatalf("round %d (replay with -policy-seed=%d): %d Envoys online, rejected: %+v\n%s", round,
				*policySeed, progress.Online, progress.Rejections, yamlOf(put))
		}
		now, _ := l.e.Config(p.Key)
		if now != before {
			concerned++
		}
		before = now
	}
	t.Logf("%d changes for Envoy", concerned)
	if concerned < 8*len(kinds) {
		t.Errorf("only %d changes were for Envoy: the test saw too little", concerned)
	}
}
