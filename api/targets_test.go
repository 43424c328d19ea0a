package api_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// aimedJSON is a policy for the Dataplanes that have a label.
func aimedJSON(name, value string) string {
	return `{"type":"MeshTimeout","mesh":"default","name":"` + name + `","spec":{` +
		`"targetRef":{"kind":"Dataplane","labels":{"app":"` + value + `"}},` +
		`"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"5s"}}}]}}`
}

// TestWriteCostsTheSameInALargeMesh: what a write at global asks of its zones, and what they answer,
// does not grow with their Dataplanes.
func TestWriteCostsTheSameInALargeMesh(t *testing.T) {
	t.Parallel()
	type cost struct{ calls, bytes int64 }
	const noMatch = "matches no proxy yet"
	measure := func(proxies int) (known, unknown cost) {
		east := withMesh(t, func(c *api.Config) { c.Zone, c.Federated = "east", true })
		var rs []*mesh.Resource
		for i := range proxies {
			dp := dataplane(fmt.Sprintf("dp-%d", i), "east")
			dp.Labels = map[string]string{"app": "web"}
			rs = append(rs, dp)
		}
		east.seed(rs...)
		var calls, bytes atomic.Int64
		g := withMesh(t, func(c *api.Config) {
			global(c)
			c.Forward = func(ctx context.Context, _, method string, req []byte) ([]byte, error) {
				resp, err := east.server.Call(ctx, method, req)
				calls.Add(1)
				bytes.Add(int64(len(req) + len(resp)))
				return resp, err
			}
		})
		g.seed(&mesh.Resource{
			Key:    mesh.Key{Kind: mesh.KindZone, Name: "east"},
			Spec:   &meshv1.Zone{},
			Status: &meshv1.ZoneStatus{State: "Online"},
		})
		put := func(value string) (warned bool, c cost) {
			calls.Store(0)
			bytes.Store(0)
			a := g.do("PUT", t1, aimedJSON("t1", value))
			if a.status >= 300 {
				t.Fatalf("status %d: %s", a.status, a.text)
			}
			warnings := fmt.Sprint(a.json["warnings"])
			return warnings == "[spec.targetRef: "+noMatch+
					"; stored, takes effect when a matching proxy joins]",
				cost{
					calls.Load(),
					bytes.Load(),
				}
		}
		warned, known := put("web")
		if warned {
			t.Errorf("%d proxies: a warning of a target that matches", proxies)
		}
		warned, unknown = put("none")
		if !warned {
			t.Errorf("%d proxies: no warning of a target that does not match", proxies)
		}
		return known, unknown
	}
	smallKnown, smallUnknown := measure(3)
	largeKnown, largeUnknown := measure(300)
	if smallKnown != largeKnown || smallUnknown != largeUnknown {
		t.Errorf("3 proxies cost %v and %v, 300 cost %v and %v", smallKnown, smallUnknown, largeKnown,
			largeUnknown)
	}
	if largeUnknown.calls != 1 {
		t.Errorf("%d calls of one zone, want 1", largeUnknown.calls)
	}
}

// TestWarningNeedsEveryZone: there is no warning while a zone that could have a match cannot be asked.
func TestWarningNeedsEveryZone(t *testing.T) {
	t.Parallel()
	g := withMesh(t, func(c *api.Config) {
		global(c)
		c.Forward = func(context.Context, string, string, []byte) ([]byte, error) {
			return nil, status.Error(codes.Unavailable, "its connection is lost")
		}
	})
	g.seed(&mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindZone, Name: "east"},
		Spec:   &meshv1.Zone{},
		Status: &meshv1.ZoneStatus{State: "Online"},
	})
	a := g.want(g.do("PUT", t1, aimedJSON("t1", "none")), 201)
	if a.json["warnings"] != nil {
		t.Errorf("warnings %v", a.json["warnings"])
	}
}
