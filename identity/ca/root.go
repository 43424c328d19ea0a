package ca

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// IntermediateValidity is how long an intermediate lives; it is renewed at half of it.
const IntermediateValidity = 30 * 24 * time.Hour

// ErrNoAuthority says that a mesh has no certificate authority (yet).
var ErrNoAuthority = errors.New("mesh has no certificate authority")

// Backend is the enabled backend of a mesh; nil if mTLS is off.
func Backend(m *mesh.Resource) *meshv1.Mesh_Backend {
	if m == nil {
		return nil
	}
	mtls := mesh.Spec[*meshv1.Mesh](m).GetMtls()
	if mtls.GetEnabledBackend() == "" {
		return nil
	}
	for _, b := range mtls.GetBackends() {
		if b.GetName() == mtls.GetEnabledBackend() {
			return b
		}
	}
	return nil
}

// Pair is an authority's certificate (or chain) and key as PEM.
type Pair struct{ Cert, Key []byte }

// Root reads the root pair of a mesh from the view: the builtin Secrets, or what a provided backend
// names. It fails with [ErrNoAuthority] if mTLS is off or the pair is not there.
func Root(view replica.View, meshName string) (Pair, *meshv1.Mesh_Backend, error) {
	m, _ := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: meshName})
	b := Backend(m)
	if b == nil {
		return Pair{}, nil, fmt.Errorf("%w: mTLS of mesh %q is off", ErrNoAuthority, meshName)
	}
	var p Pair
	var err error
	if b.GetType() == "provided" {
		if p.Cert, err = source(view, meshName, b.GetConf().GetCert()); err == nil {
			p.Key, err = source(view, meshName, b.GetConf().GetKey())
		}
		if err != nil {
			return Pair{}, b,
				fmt.Errorf("%w: backend %q of mesh %q: %w", ErrNoAuthority, b.GetName(), meshName, err)
		}
		return p, b, nil
	}
	p.Cert = secret(view, secrets.RootCert(meshName, b.GetName()))
	p.Key = secret(view, secrets.RootKey(meshName, b.GetName()))
	if p.Cert == nil || p.Key == nil {
		return p, b, fmt.Errorf("%w: the root of backend %q of mesh %q is not here", ErrNoAuthority,
			b.GetName(), meshName)
	}
	return p, b, nil
}

func secret(view replica.View, k mesh.Key) []byte {
	r, ok := view.Get(k)
	if !ok {
		return nil
	}
	return mesh.Spec[*meshv1.Secret](r).GetData()
}

func source(view replica.View, meshName string, s *meshv1.DataSource) ([]byte, error) {
	switch {
	case s.GetSecret() != "":
		data := secret(view, mesh.Key{Kind: mesh.KindSecret, Mesh: meshName, Name: s.GetSecret()})
		if data == nil {
			return nil, fmt.Errorf("there is no Secret %q in mesh %q", s.GetSecret(), meshName)
		}
		return data, nil
	case len(s.GetInline()) > 0:
		return s.GetInline(), nil
	case s.GetInlineString() != "":
		return []byte(s.GetInlineString()), nil
	case s.GetFile() != "":
		return os.ReadFile(s.GetFile())
	}
	return nil, errors.New("no certificate or key is given")
}

// MaySign says whether a CA certificate may sign intermediates that sign workloads.
func MaySign(certPEM []byte) bool {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !cert.IsCA || !cert.BasicConstraintsValid {
		return false
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return false
	}
	return !cert.MaxPathLenZero
}

// Signed is an answer to a zone's request: a chain with the root, or the provided pair itself.
type Signed struct {
	// Chain is the intermediate and what it hangs on; Root is the trust anchor.
	Chain, Root []byte
	// ProvidedKey is set instead of a signature when the mesh's CA may not sign intermediates.
	ProvidedKey []byte
}

// Sign answers a zone's request for an intermediate of a mesh.
func Sign(view replica.View, meshName string, csrDER []byte) (Signed, error) {
	p, b, err := Root(view, meshName)
	if err != nil {
		return Signed{}, err
	}
	if b.GetType() == "provided" && !MaySign(p.Cert) {
		return Signed{Chain: p.Cert, Root: p.Cert, ProvidedKey: p.Key}, nil
	}
	chain, err := pki.SignIntermediate(p.Cert, p.Key, csrDER, IntermediateValidity)
	if err != nil {
		return Signed{}, fmt.Errorf("sign the intermediate of mesh %q: %w", meshName, err)
	}
	return Signed{Chain: chain, Root: p.Cert}, nil
}
