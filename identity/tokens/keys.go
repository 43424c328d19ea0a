package tokens

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store/replica"
)

// ringID names a set of keys.
type ringID struct {
	kind   mesh.Kind
	mesh   string
	prefix string
	// public is a second prefix, of public halves.
	public string
	// revocations is the name of the list.
	revocations string
}

func dataplaneRing(meshName string) ringID {
	return ringID{
		kind:        mesh.KindSecret,
		mesh:        meshName,
		prefix:      dataplaneKeyPrefix + meshName,
		revocations: dataplaneRevocations + meshName,
	}
}

func zoneRing() ringID {
	return ringID{
		kind:        mesh.KindGlobalSecret,
		prefix:      zoneKeyPrefix,
		public:      zonePublicKeyPrefix,
		revocations: zoneRevocations,
	}
}

func userRing() ringID {
	return ringID{kind: mesh.KindGlobalSecret, prefix: userKeyPrefix, revocations: userRevocations}
}

// version says of which secrets a ring was made.
type version struct {
	key      mesh.Key
	revision uint64
}

// ring is the parsed form of a set of keys and its revocation list; immutable.
type ring struct {
	versions []version
	// keys by serial; padded names make several of one serial.
	keys    map[int][]parsedKey
	broken  []error
	revoked map[string]bool
}

type parsedKey struct {
	name    string
	public  *rsa.PublicKey
	private *rsa.PrivateKey
}

// serialOf reads "<prefix>" (0) or "<prefix>-<number>".
func serialOf(name, prefix string) (int, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	if rest == "" {
		return 0, true
	}
	digits, ok := strings.CutPrefix(rest, "-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	return int(n), err == nil
}

// keySecrets are the secrets of a ring's keys, in key order.
func keySecrets(v replica.View, id ringID) []*mesh.Resource {
	var out []*mesh.Resource
	for r := range v.List(id.kind, id.mesh) {
		if _, ok := id.serial(r.Key.Name); ok {
			out = append(out, r)
		}
	}
	return out
}

func (id ringID) serial(name string) (int, bool) {
	if n, ok := serialOf(name, id.prefix); ok {
		return n, true
	}
	if id.public == "" {
		return 0, false
	}
	return serialOf(name, id.public)
}

// revocationSecrets are the lists: the mesh's Secret, and the GlobalSecret of that name, which Kuma
// reads too.
func revocationSecrets(v replica.View, id ringID) []*mesh.Resource {
	var out []*mesh.Resource
	collect := func(kind mesh.Kind, meshName string) {
		for r := range v.List(kind, meshName) {
			if r.Key.Name == id.revocations {
				out = append(out, r)
			}
		}
	}
	collect(mesh.KindGlobalSecret, "")
	if id.kind == mesh.KindSecret {
		collect(mesh.KindSecret, id.mesh)
	}
	return out
}

// ring gives the parsed keys as v has them.
func (t *Tokens) ring(v replica.View, id ringID) *ring {
	keys, lists := keySecrets(v, id), revocationSecrets(v, id)
	versions := make([]version, 0, len(keys)+len(lists))
	for _, r := range slices.Concat(keys, lists) {
		versions = append(versions, version{r.Key, r.Revision})
	}
	t.mu.Lock()
	cached := t.rings[id]
	t.mu.Unlock()
	if cached != nil && slices.Equal(cached.versions, versions) {
		return cached
	}
	made := &ring{versions: versions, keys: map[int][]parsedKey{}, revoked: map[string]bool{}}
	for _, r := range keys {
		serial, _ := id.serial(r.Key.Name)
		k, err := parseRSA(secretData(r))
		if err != nil {
			made.broken = append(made.broken, fmt.Errorf("secret %s: %w", r.Key.Name, err))
			continue
		}
		k.name = r.Key.Name
		made.keys[serial] = append(made.keys[serial], k)
	}
	for _, r := range lists {
		for _, jti := range strings.FieldsFunc(string(secretData(r)),
			func(c rune) bool { return strings.ContainsRune(", \t\r\n", c) }) {
			made.revoked[jti] = true
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(keys) == 0 {
		delete(t.rings, id) // keep nothing for meshes that a stranger's token may name
	} else {
		t.rings[id] = made
	}
	return made
}

// signer is the private key with the highest serial.
func (r *ring) signer() (serial int, key *rsa.PrivateKey, err error) {
	serial = -1
	for n, ks := range r.keys {
		for _, k := range ks {
			if k.private != nil && n > serial {
				serial, key = n, k.private
			}
		}
	}
	if key != nil {
		return serial, key, nil
	}
	if len(r.broken) > 0 {
		return 0, nil, &UnreadableKeysError{Reasons: r.broken}
	}
	return 0, nil, ErrNoKey
}

func (r *ring) verifiers(kid string) (jwt.VerificationKeySet, bool) {
	n, err := strconv.ParseUint(kid, 10, 31)
	if err != nil {
		return jwt.VerificationKeySet{}, false
	}
	var set jwt.VerificationKeySet
	for _, k := range r.keys[int(n)] {
		set.Keys = append(set.Keys, k.public)
	}
	return set, len(set.Keys) > 0
}

// parseRSA reads a private or public key, PEM (PKCS#1, PKCS#8, PKIX) or bare DER.
func parseRSA(data []byte) (parsedKey, error) {
	der := data
	if block, _ := pem.Decode(bytes.TrimSpace(data)); block != nil {
		der = block.Bytes
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return parsedKey{public: &k.PublicKey, private: k}, nil
	}
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if rk, ok := k.(*rsa.PrivateKey); ok {
			return parsedKey{public: &rk.PublicKey, private: rk}, nil
		}
		return parsedKey{}, fmt.Errorf("the key must be an RSA key, but it is a %T", k)
	}
	if k, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return parsedKey{public: k}, nil
	}
	if k, err := x509.ParsePKIXPublicKey(der); err == nil {
		if rk, ok := k.(*rsa.PublicKey); ok {
			return parsedKey{public: rk}, nil
		}
	}
	return parsedKey{}, errors.New("there is no RSA key in it")
}
