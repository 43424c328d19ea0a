package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
)

func meshKey(name string) mesh.Key { return mesh.Key{Kind: mesh.KindMesh, Name: name} }

// ca makes a provided CA; it may sign intermediates unless leafOnly.
func ca(t *testing.T, leafOnly bool) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "shop"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		MaxPathLenZero:        leafOnly,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: "shop"}},
	}
	if !leafOnly {
		tmpl.MaxPathLen = 1
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{
			Type:  "CERTIFICATE",
			Bytes: der,
		}), pem.EncodeToMemory(&pem.Block{
			Type:  "PRIVATE KEY",
			Bytes: keyDER,
		})
}

func TestProvided(t *testing.T) {
	for name, leafOnly := range map[string]bool{"signs intermediates": false, "goes to the zones": true} {
		t.Run(name, func(t *testing.T) {
			cert, key := ca(t, leafOnly)
			m := &mesh.Resource{
				Key: meshKey("shop"),
				Spec: &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{
					EnabledBackend: "own",
					Backends: []*meshv1.Mesh_Backend{{
						Name: "own",
						Type: "provided",
						Conf: &meshv1.Mesh_Conf{
							Cert: &meshv1.DataSource{Secret: "cert"},
							Key:  &meshv1.DataSource{InlineString: string(key)},
						},
					}},
				}},
			}
			secret := &mesh.Resource{
				Key:  mesh.Key{Kind: mesh.KindSecret, Mesh: "shop", Name: "cert"},
				Spec: &meshv1.Secret{Data: cert},
			}
			csr, _, err := pki.NewCSR("shop", "us-east")
			if err != nil {
				t.Fatal(err)
			}
			signed, err := Sign(replica.NewView(1, m, secret), "shop", csr)
			if err != nil {
				t.Fatal(err)
			}
			if got := signed.ProvidedKey != nil; got != leafOnly {
				t.Errorf("the key goes along: %v, want %v", got, leafOnly)
			}
			if _, err := Sign(replica.NewView(1, m), "shop", csr); !errors.Is(err, ErrNoAuthority) {
				t.Errorf("without the Secret: %v", err)
			}
		})
	}
}
