package txn

import (
	"testing"

	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// TestShare: equal parts of Dataplanes are the same, contents stay, and what is given is not changed.
func TestShare(t *testing.T) {
	t.Parallel()
	dataplane := func(address string, ports ...uint32) *meshv1.Dataplane {
		d := &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: address,
			Inbound: []*meshv1.Dataplane_Inbound{{
				Port: 80,
				Tags: map[string]string{"kuma.io/service": "a", "version": "1"},
			}},
		}}
		for _, p := range ports {
			d.Networking.Outbound = append(d.Networking.Outbound, &meshv1.Dataplane_Outbound{
				Port:       p,
				BackendRef: &meshv1.Dataplane_OutboundBackendRef{Kind: "MeshService", Name: "b", Port: 80},
			})
		}
		d.ProtoReflect().SetUnknown([]byte{0xf8, 0x7f, 1}) // of a newer version
		return d
	}

	one, two := dataplane("10.0.0.1", 1, 2), dataplane("10.0.0.2", 2, 3)
	a, b := share(one).(*meshv1.Dataplane), share(two).(*meshv1.Dataplane)
	if !proto.Equal(a, one) || !proto.Equal(b, two) {
		t.Errorf("contents changed: %v and %v", a, b)
	}
	if a.Networking.Outbound[1] != b.Networking.Outbound[0] ||
		a.Networking.Inbound[0] != b.Networking.Inbound[0] {
		t.Error("equal parts are not shared")
	}
	if a.Networking.Outbound[0] == b.Networking.Outbound[1] {
		t.Error("different parts are shared")
	}
	if &one.Networking.Outbound[0] == &a.Networking.Outbound[0] || one.Networking == a.Networking {
		t.Error("the message that was given is a part of the result")
	}
	if other := (&meshv1.Mesh{}); share(other) != proto.Message(other) || share(nil) != nil {
		t.Error("another kind is not left alone")
	}
}
