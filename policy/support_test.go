package policy

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// read decodes documents and refuses bad ones.
func read(t testing.TB, text string) []*mesh.Resource {
	t.Helper()
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	var out []*mesh.Resource
	for _, d := range docs {
		if _, err := validate.Resource(d.Resource); err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		out = append(out, d.Resource)
	}
	return out
}

func sorted(policies []*mesh.Resource) []*mesh.Resource {
	return slices.SortedFunc(slices.Values(policies),
		func(a, b *mesh.Resource) int { return Compare(HeadOf(a), HeadOf(b)) })
}

// selecting are the policies that select the subject, ascending.
func selecting(s Subject, policies []*mesh.Resource) []*mesh.Resource {
	var out []*mesh.Resource
	for _, p := range policies {
		if _, ok := HeadOf(p).Select(s); ok {
			out = append(out, p)
		}
	}
	return sorted(out)
}

// web is the client of the vectors: label app=web, inbound http on 8000, tag kuma.io/service=web.
func web() Subject {
	return Subject{
		Dataplane: &mesh.Resource{
			Key:    mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "web"},
			Labels: map[string]string{"app": "web"},
			Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
				Address: "10.0.0.1",
				Inbound: []*meshv1.Dataplane_Inbound{
					{
						Port: 8000,
						Name: "http",
						Tags: map[string]string{"kuma.io/service": "web", "version": "1"},
					},
					{Port: 9000, Tags: map[string]string{"kuma.io/service": "web-admin"}},
				},
			}},
		},
		Services: []mesh.Key{{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: "web-all"}},
	}
}

// backend is the destination of the vectors, port 3001 called main.
var backend = Destination{
	Key:     mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: "backend"},
	Section: "main",
}

const defaults = `
type: MeshTimeout
name: mesh-timeout-all-default
labels: {kuma.io/managed-by: meridian-defaults}
spec:
  targetRef: {kind: Mesh, proxyTypes: [Sidecar]}
  from:
  - targetRef: {kind: Mesh}
    default:
      connectionTimeout: 10s
      idleTimeout: 2h
      http: {requestTimeout: 0s, streamIdleTimeout: 1h, maxStreamDuration: 0s}
  to:
  - targetRef: {kind: Mesh}
    default:
      connectionTimeout: 5s
      idleTimeout: 1h
      http: {requestTimeout: 15s, streamIdleTimeout: 30m}
---
`

// timeout is a MeshTimeout that sets requestTimeout.
func timeout(name, top, to, value string) string {
	if to != "" {
		to = "{kind: MeshService, name: " + to + "}"
	} else {
		to = "{kind: Mesh}"
	}
	return "type: MeshTimeout\nname: " + name + "\nspec: {targetRef: " + top + ", to: [{targetRef: " + to +
		", default: {http: {requestTimeout: " + value + "}}}]}\n---\n"
}

func requestTimeout(conf proto.Message) time.Duration {
	c, _ := conf.(*meshv1.MeshTimeout_Conf)
	return c.GetHttp().GetRequestTimeout().AsDuration()
}
