package inprocess

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

// TestDiffNamesWhoHears: of random policies of every kind, what global says of them beforehand is
// which proxies of which zones hear of them when they are written, and that no proxy hears of the
// question.
func TestDiffNamesWhoHears(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	proxies := map[string]*proxy{"us-east/p": w.sidecar("us-east", "p", "http", "127.0.0.1"),
		"us-east/q": w.sidecar("us-east", "q", "grpc", "127.0.0.2"),
		"eu-west/r": w.sidecar("eu-west", "r", "http", "127.0.0.3")}
	// All have all services, with their addresses, and the instances of their own zone; so nothing
	// of this is still on its way.
	for name, p := range proxies {
		home, _, _ := strings.Cut(name, "/")
		services := map[string][]string{"kri_msvc_default_us-east__http_9001": {"127.0.0.1:9001 0 healthy"},
			"kri_msvc_default_us-east__grpc_9001": {"127.0.0.2:9001 0 healthy"},
			"kri_msvc_default_eu-west__http_9001": {"127.0.0.3:9001 0 healthy"}}
		err := p.Wait(w.ctx, func(s *xdstest.State) bool {
			for kri, want := range services {
				if !strings.Contains(kri, home) {
					want = nil
				}
				if _, ok := s.Resources[xdstest.Listener][kri]; !ok ||
					!slices.Equal(endpoints(s, kri), want) {
					return false
				}
			}
			return true
		})
		if err != nil {
			p.View(func(s *xdstest.State) {
				t.Fatalf("%s: %v; has %v", name, err, slices.Sorted(maps.Keys(s.Resources[xdstest.Listener])))
			})
		}
	}
	c, err := client.New(client.Options{URL: "http://" + w.g.Address(role.PortAPI)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.settled(w.apply(timeout(7 * time.Second)))
	var kinds []*mesh.KindInfo
	for _, k := range mesh.Kinds {
		if k.Policy != nil {
			kinds = append(kinds, k)
		}
	}
	responses := func() map[string]int {
		out := map[string]int{}
		for name, p := range proxies {
			out[name] = p.Total().Responses
		}
		return out
	}
	r := rand.New(rand.NewPCG(1, 23))
	a := xdstest.NewAuthor(r)
	sizes := map[int]int{}
	for step := range 4 * len(kinds) {
		policy := a.Policy(kinds[step%len(kinds)], []string{"x", "route"}[r.IntN(2)])
		if aimed := policy.Clone(); r.IntN(2) == 0 { // at one proxy
			m := aimed.Spec.ProtoReflect()
			ref := &meshv1.TargetRef{Kind: "Dataplane", Name: []string{"p", "q", "r"}[r.IntN(3)]}
			m.Set(m.Descriptor().Fields().ByName("target_ref"),
				protoreflect.ValueOfMessage(ref.ProtoReflect()))
			if _, err := validate.Resource(aimed); err == nil {
				policy = aimed
			}
		}
		before := responses()
		said, err := c.Diff(w.ctx, []*mesh.Resource{policy}, client.DiffOptions{})
		if err != nil || len(said.GetWarnings()) > 0 || len(said.GetZones()) != 2 {
			t.Fatalf("step %d, %s: %v, %v", step, policy.Key, said, err)
		}
		names := map[string]bool{}
		for _, z := range said.GetZones() {
			for _, k := range z.GetNames() {
				names[z.GetZone()+"/"+k.GetName()] = true
			}
		}
		put, err := c.Put(w.ctx, policy, client.PutOptions{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		w.settled(put.Revision)
		heard := map[string]bool{}
		for name, n := range responses() {
			if n != before[name] {
				heard[name] = true
			}
		}
		if diff := cmp.Diff(heard, names); diff != "" {
			t.Fatalf("step %d, %s (-hears +said):\n%s", step, policy.Key, diff)
		}
		sizes[len(names)]++
	}
	t.Logf("changes by how many proxies hear of them: %v", sizes)
	if sizes[0] == 0 || len(sizes) < 3 {
		t.Errorf("changes concerned %v proxies: the test saw too little", slices.Sorted(maps.Keys(sizes)))
	}
}
