package kds_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func resource(kind mesh.Kind, zone, name string, labels map[string]string) *mesh.Resource {
	info, _ := mesh.Lookup(kind)
	r := &mesh.Resource{
		Key:    mesh.Key{Kind: kind, Zone: zone, Name: name},
		Labels: labels,
		Spec:   info.NewSpec(),
	}
	if info.Scope == mesh.ScopeMesh {
		r.Key.Mesh = "default"
	}
	if info.NewStatus != nil {
		r.Status = info.NewStatus()
	}
	return r
}

func TestViewShowsWhatThePeerMaySee(t *testing.T) {
	disabled := map[string]string{mesh.LabelSync: mesh.SyncDisabled}
	for _, tt := range []struct {
		name         string
		direction    kds.Direction
		r            *mesh.Resource
		seen, status bool
	}{
		{"policy of global", kds.Down, resource(mesh.KindMeshTimeout, "", "a", nil), true, false},
		{"policy with sync disabled", kds.Down, resource(mesh.KindMeshTimeout, "", "a", disabled), false,
			false},
		{"policy of the zone itself", kds.Down, resource(mesh.KindMeshTimeout, "east", "a", nil), false,
			false},
		{"policy of another zone", kds.Down, resource(mesh.KindMeshTimeout, "west", "a", nil), false, false},
		{"service of another zone", kds.Down, resource(mesh.KindMeshService, "west", "a", nil), true, true},
		{"service of the zone itself", kds.Down, resource(mesh.KindMeshService, "east", "a", nil), false,
			false},
		{"service of a disabled zone", kds.Down, resource(mesh.KindMeshService, "north", "a", nil), false,
			false},
		{"service over zones", kds.Down, resource(mesh.KindMeshMultiZoneService, "", "a", nil), true, true},
		{"zone", kds.Down, resource(mesh.KindZone, "", "a", nil), false, false},
		{"mesh", kds.Down, resource(mesh.KindMesh, "", "default", nil), true, false},
		{"secret", kds.Down, resource(mesh.KindSecret, "", "dataplane-token-signing-key-default-1", nil),
			true, false},
		{"certificate of a mesh", kds.Down,
			resource(mesh.KindSecret, "", "default.ca-builtin-cert-ca-1", nil), true, false},
		{"key of a mesh", kds.Down, resource(mesh.KindSecret, "", "default.ca-builtin-key-ca-1", nil), false,
			false},
		{"secret of a zone", kds.Down, resource(mesh.KindSecret, "west", "own", nil), false, false},
		{"admin's token", kds.Down, resource(mesh.KindGlobalSecret, "", "admin-user-token", nil), false,
			false},
		{"user token key", kds.Down, resource(mesh.KindGlobalSecret, "", "user-token-signing-key-1", nil),
			false, false},
		{"user token public key", kds.Down,
			resource(mesh.KindGlobalSecret, "", "user-token-signing-public-key-1", nil), true, false},
		{"revoked user tokens", kds.Down, resource(mesh.KindGlobalSecret, "", "user-token-revocations", nil),
			false, false},
		{"envoy admin's authority", kds.Down, resource(mesh.KindGlobalSecret, "", "envoy-admin-ca", nil),
			false, false},
		{"revoked zone tokens", kds.Down, resource(mesh.KindGlobalSecret, "", "zone-token-revocations", nil),
			true, false},
		{"a zone token key that is none", kds.Down,
			resource(mesh.KindGlobalSecret, "", "zone-token-signing-key-1", nil), false, false},
		{"own service", kds.Up, resource(mesh.KindMeshService, "east", "a", nil), true, true},
		{"own policy", kds.Up, resource(mesh.KindMeshTimeout, "east", "a", nil), true, false},
		{"own dataplane", kds.Up, resource(mesh.KindDataplane, "east", "a", nil), false, false},
		{"own ingress", kds.Up, resource(mesh.KindZoneIngress, "east", "a", nil), true, false},
		{"own secret", kds.Up, resource(mesh.KindSecret, "east", "a", nil), false, false},
		{"copy of another zone's", kds.Up, resource(mesh.KindMeshService, "west", "a", nil), false, false},
		{"copy of global's", kds.Up, resource(mesh.KindMeshTimeout, "", "a", nil), false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			view := &kds.View{Direction: tt.direction, Zone: "east"}
			off := false
			view.NoteZone("north", &mesh.Resource{
				Key:  mesh.Key{Kind: mesh.KindZone, Name: "north"},
				Spec: &meshv1.Zone{Enabled: &off},
			})
			seen := view.See(tt.r)
			if (seen != nil) != tt.seen {
				t.Fatalf("seen: %v", seen)
			}
			if seen != nil && (seen.Status != nil) != tt.status {
				t.Errorf("status goes along: %v", seen.Status != nil)
			}
		})
	}
}

func TestViewStripsGraceLabelAndLeavesTheOriginal(t *testing.T) {
	r := resource(mesh.KindMeshService, "east", "a",
		map[string]string{mesh.LabelGraceStarted: "now", "k": "v"})
	seen := (&kds.View{Direction: kds.Up, Zone: "east"}).See(r)
	if _, ok := seen.Labels[mesh.LabelGraceStarted]; ok || seen.Labels["k"] != "v" {
		t.Errorf("labels %v", seen.Labels)
	}
	if r.Labels[mesh.LabelGraceStarted] != "now" {
		t.Error("the store's resource was changed")
	}
}

func TestZoneTokenKeyGoesDownAsItsPublicHalf(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(key)
	for name, data := range map[string][]byte{
		"PKCS 1 PEM": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: pkcs1}),
		"PKCS 8 PEM": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		"PKCS 1 DER": pkcs1,
	} {
		t.Run(name, func(t *testing.T) {
			r := resource(mesh.KindGlobalSecret, "", "zone-token-signing-key-7", nil)
			r.Spec.(*meshv1.GlobalSecret).Data = data
			seen := (&kds.View{Direction: kds.Down, Zone: "east"}).See(r)
			if seen == nil || seen.Key.Name != "zone-token-signing-public-key-7" {
				t.Fatalf("seen %v", seen)
			}
			b, _ := pem.Decode(mesh.Spec[*meshv1.GlobalSecret](seen).GetData())
			public, err := x509.ParsePKIXPublicKey(b.Bytes)
			if err != nil || !key.PublicKey.Equal(public) {
				t.Errorf("%v, %v", public, err)
			}
			if r.Key.Name != "zone-token-signing-key-7" {
				t.Error("the store's resource was changed")
			}
		})
	}
}

func TestHoldShowsAFormerSpec(t *testing.T) {
	former := resource(mesh.KindMeshTimeout, "", "a", map[string]string{"is": "former"})
	view := &kds.View{
		Direction: kds.Down,
		Zone:      "east",
		Hold:      func(r *mesh.Resource) *mesh.Resource { return former },
	}
	if seen := view.See(resource(mesh.KindMeshTimeout, "", "a", nil)); seen.Labels["is"] != "former" {
		t.Errorf("seen %v", seen)
	}
}
