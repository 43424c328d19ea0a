package trial_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/trial"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

var (
	documents = flag.Int("documents", 40, "random policies of each kind")
	seed      = flag.Uint64("policy-seed", 1, "seed of the random policies")
)

// TestPolicyOfAnyKind: what mesh/validate admits, Envoy's own rules of messages admit too; no random
// document gets by the one and is stopped by the other.
func TestPolicyOfAnyKind(t *testing.T) {
	t.Parallel()

	for i, info := range mesh.Kinds {
		if info.Policy == nil {
			continue
		}
		a := xdstest.NewAuthor(rand.New(rand.NewPCG(*seed, uint64(i))))
		for n := range *documents {
			r := a.Policy(info, fmt.Sprintf("x%d", n))
			if bad := trial.Policy(r); len(bad) > 0 {
				text, _ := codec.EncodeYAML(r)
				t.Fatalf("%v (replay with -policy-seed=%d)\n%s", bad, *seed, text)
			}
		}
	}
}

// TestWhatEnvoyRejects: specs that break Envoy's rules, which mesh/validate has not seen, are named by entry
// and rule, each with the field of Envoy's message.
func TestWhatEnvoyRejects(t *testing.T) {
	t.Parallel()

	header := func(path string, size int) *meshv1.MeshHTTPRoute_Rule {
		matches := []*meshv1.MeshHTTPRoute_RouteMatch{{
			Path: &meshv1.MeshHTTPRoute_PathMatch{Type: "PathPrefix", Value: path},
		}}
		return &meshv1.MeshHTTPRoute_Rule{Matches: matches, Default: &meshv1.MeshHTTPRoute_Conf{
			Filters: []*meshv1.MeshHTTPRoute_Filter{{
				Type: "RequestHeaderModifier",
				RequestHeaderModifier: &meshv1.MeshHTTPRoute_HeaderModifier{
					Set: []*meshv1.MeshHTTPRoute_Header{{Name: "x-a", Value: strings.Repeat("a", size)}},
				},
			}},
		}}
	}
	check := func(timeout time.Duration) *meshv1.MeshHealthCheck {
		return &meshv1.MeshHealthCheck{To: []*meshv1.MeshHealthCheck_To{{
			TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: "elsewhere", SectionName: "http"},
			Default: &meshv1.MeshHealthCheck_Conf{
				Timeout: durationpb.New(timeout),
				Http:    &meshv1.MeshHealthCheck_Http{},
			},
		}}}
	}
	target := &meshv1.TargetRef{Kind: "MeshService", Labels: map[string]string{"a": "b"}}
	for _, c := range []struct {
		kind  mesh.Kind
		spec  proto.Message
		field string
		text  string
	}{
		{kind: mesh.KindMeshHTTPRoute, spec: &meshv1.MeshHTTPRoute{To: []*meshv1.MeshHTTPRoute_To{
			{TargetRef: target, Rules: []*meshv1.MeshHTTPRoute_Rule{header("/", 10)}},
			{TargetRef: target, Rules: []*meshv1.MeshHTTPRoute_Rule{header("/", 10), header("/b", 20_000)}},
		}}, field: "spec.to[1].rules[1]", text: "HeaderValue.Value: value length must be"},
		{kind: mesh.KindMeshHealthCheck, spec: check(time.Second)},
		{kind: mesh.KindMeshHealthCheck, spec: check(-time.Second), field: "spec.to[0]",
			text: "HealthCheck.Timeout: value must be greater than 0s"},
		{kind: mesh.KindMeshRateLimit, spec: &meshv1.MeshRateLimit{}},
	} {
		r := &mesh.Resource{Key: mesh.Key{Kind: c.kind, Mesh: "default", Name: "p"}, Spec: c.spec}
		bad := trial.Policy(r)
		switch {
		case c.field == "" && len(bad) > 0:
			t.Errorf("%s: %v; nothing is wrong with it", c.kind, bad)
		case c.field == "":
		case len(bad) != 1 || bad[0].Field != c.field || !strings.Contains(bad[0].Reason, c.text):
			t.Errorf("%s: %v; must be one violation, %s: ... %s", c.kind, bad, c.field, c.text)
		}
	}
}

// BenchmarkPolicy is what the check adds to a write.
func BenchmarkPolicy(b *testing.B) {
	for i, info := range mesh.Kinds {
		if info.Policy == nil {
			continue
		}
		r := xdstest.NewAuthor(rand.New(rand.NewPCG(1, uint64(i)))).Policy(info, "x")
		b.Run(string(info.Kind), func(b *testing.B) {
			for b.Loop() {
				trial.Policy(r)
			}
		})
	}
}
