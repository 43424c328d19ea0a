package secrets

import (
	"fmt"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func TestTravel(t *testing.T) {
	t.Parallel()

	global := func(name string) mesh.Key { return mesh.Key{Kind: mesh.KindGlobalSecret, Name: name} }
	of := func(name string) mesh.Key { return mesh.Key{Kind: mesh.KindSecret, Mesh: "m", Name: name} }
	for k, want := range map[mesh.Key]Travel{
		global(UserSigningKey + "-1"):       Never,
		global(UserRevocations):             Never,
		global(AdminToken):                  Never,
		global("envoy-admin-ca"):            Never,
		global("inter-cp-ca"):               Never,
		global(ZoneSigningKey + "-1"):       PublicHalf,
		global(ZonePublicKey + "-1"):        Whole,
		global(ZoneRevocations):             Whole,
		global("license"):                   Whole,
		of(DataplaneSigningKey + "m-1"):     Whole,
		of(AdminToken):                      Whole,
		RootCert("m", "ca-1"):               Whole,
		RootKey("m", "ca-1"):                Never,
		of("other.ca-builtin-key-imported"): Never,
	} {
		if got := TravelOf(k); got != want {
			t.Errorf("%s: %d, want %d", k, got, want)
		}
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()

	k := mesh.Key{Kind: mesh.KindGlobalSecret, Name: ZoneSigningKey + "-2"}
	if got, ok := Public(k); !ok || got.Name != ZonePublicKey+"-2" {
		t.Errorf("%s, %t", got, ok)
	}
	k.Zone = "east"
	if _, ok := Public(k); ok {
		t.Error("a zone's own key goes out")
	}
}

func ExampleTravelOf() {
	fmt.Println(TravelOf(RootKey("default", "ca-1")) == Never)
	fmt.Println(TravelOf(RootCert("default", "ca-1")) == Whole)
	// Output:
	// true
	// true
}
