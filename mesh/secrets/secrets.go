// Package secrets is the one table of the secrets that control planes keep for themselves: their
// names, what they hold, and what of them leaves global. Who writes one, who reads it and the sync
// to zones look here.
package secrets

import (
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
)

// Names of secrets, and beginnings of names. A signing key's name goes on with "-" and its serial.
const (
	UserSigningKey      = "user-token-signing-key"
	UserRevocations     = "user-token-revocations"
	AdminToken          = "admin-user-token"
	ZoneSigningKey      = "zone-token-signing-key"
	ZonePublicKey       = "zone-token-signing-public-key"
	ZoneRevocations     = "zone-token-revocations"
	DataplaneSigningKey = "dataplane-token-signing-key-" // and the mesh
	// DataplaneRevocations goes on with the mesh.
	DataplaneRevocations = "dataplane-token-revocations-"
)

// Names in a mesh after "<mesh>.", each followed by the backend.
const (
	rootCert = "ca-builtin-cert-"
	rootKey  = "ca-builtin-key-"
)

// RootCert is the Secret with the certificate of a builtin backend of a mesh.
func RootCert(meshName, backend string) mesh.Key {
	return mesh.Key{Kind: mesh.KindSecret, Mesh: meshName, Name: meshName + "." + rootCert + backend}
}

// RootKey is the Secret with the private key of a builtin backend of a mesh.
func RootKey(meshName, backend string) mesh.Key {
	return mesh.Key{Kind: mesh.KindSecret, Mesh: meshName, Name: meshName + "." + rootKey + backend}
}

// Travel says what of a global secret zones get.
type Travel int

// Travels.
const (
	// Whole secrets go to every zone as they are: all that are not in the table, too.
	Whole Travel = iota
	// Never leaves global.
	Never
	// PublicHalf goes to zones under another name, see [Public].
	PublicHalf
)

// Row is one secret, or all whose names match.
type Row struct {
	Kind mesh.Kind
	// Name is the whole name, or with Prefix its beginning. Inside is part of a name.
	Name   string
	Prefix bool
	Inside bool
	// Holds says what is in it.
	Holds  string
	Travel Travel
}

// Table has a row for each well-known secret.
var Table = []Row{
	{
		Kind:   mesh.KindGlobalSecret,
		Name:   UserSigningKey,
		Prefix: true,
		Holds:  "private key that signs tokens of users",
		Travel: Never,
	},
	{
		Kind:   mesh.KindGlobalSecret,
		Name:   UserRevocations,
		Holds:  "identifiers of revoked tokens of users",
		Travel: Never,
	},
	{
		Kind:   mesh.KindGlobalSecret,
		Name:   AdminToken,
		Holds:  "the first administrator's token",
		Travel: Never,
	},
	{
		Kind:   mesh.KindGlobalSecret,
		Name:   "envoy-admin-",
		Prefix: true,
		Holds:  "authority for the administration of proxies, of a mesh that came from Kuma",
		Travel: Never,
	},
	{
		Kind:   mesh.KindGlobalSecret,
		Name:   "inter-cp-",
		Prefix: true,
		Holds:  "authority between replicas, of a mesh that came from Kuma",
		Travel: Never,
	},
	{
		Kind:   mesh.KindGlobalSecret,
		Name:   ZoneSigningKey + "-",
		Prefix: true,
		Holds:  "private key that signs tokens of zones",
		Travel: PublicHalf,
	},
	{
		Kind:   mesh.KindGlobalSecret,
		Name:   ZonePublicKey + "-",
		Prefix: true,
		Holds:  "public key that verifies tokens of zones",
	},
	{
		Kind:  mesh.KindGlobalSecret,
		Name:  ZoneRevocations,
		Holds: "identifiers of revoked tokens of zones",
	},
	{
		Kind:   mesh.KindSecret,
		Name:   DataplaneSigningKey,
		Prefix: true,
		Holds:  "private key that signs tokens of a mesh's Dataplanes",
	},
	{
		Kind:   mesh.KindSecret,
		Name:   DataplaneRevocations,
		Prefix: true,
		Holds:  "identifiers of revoked tokens of a mesh's Dataplanes",
	},
	{
		Kind:   mesh.KindSecret,
		Name:   "." + rootCert,
		Inside: true,
		Holds:  "certificate of a mesh's builtin authority",
	},
	{
		Kind:   mesh.KindSecret,
		Name:   "." + rootKey,
		Inside: true,
		Holds:  "private key of a mesh's builtin authority, of which zones get intermediates",
		Travel: Never,
	},
}

func (r Row) is(k mesh.Key) bool {
	switch {
	case k.Kind != r.Kind:
		return false
	case r.Prefix:
		return strings.HasPrefix(k.Name, r.Name)
	case r.Inside:
		return strings.Contains(k.Name, r.Name)
	}
	return k.Name == r.Name
}

// TravelOf says what of the secret with that key leaves global.
func TravelOf(k mesh.Key) Travel {
	for _, r := range Table {
		if r.is(k) {
			return r.Travel
		}
	}
	return Whole
}

// Public is the key under which zones get the public half of global's secret k. It is not ok for
// secrets that do not go out as a public half.
func Public(k mesh.Key) (mesh.Key, bool) {
	n, ok := strings.CutPrefix(k.Name, ZoneSigningKey+"-")
	if !ok || k.Zone != "" || TravelOf(k) != PublicHalf {
		return k, false
	}
	k.Name = ZonePublicKey + "-" + n
	return k, true
}
