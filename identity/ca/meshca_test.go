package ca

import (
	"context"
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
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type sealer struct{}

func (sealer) Seal(plain, _ []byte) ([]byte, error)  { return plain, nil }
func (sealer) Open(sealed, _ []byte) ([]byte, error) { return sealed, nil }
func (sealer) Fingerprint() string                   { return "none" }

func meshKey(name string) mesh.Key { return mesh.Key{Kind: mesh.KindMesh, Name: name} }

func builtin(name string) *mesh.Resource {
	return &mesh.Resource{Key: meshKey(name), Spec: &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{EnabledBackend: "ca",
		Backends: []*meshv1.Mesh_Backend{{Name: "ca", Type: "builtin"}}}}}
}

func TestParseLifetime(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "24h": 24 * time.Hour, "10y": 10 * 365 * 24 * time.Hour, "2w": 14 * 24 * time.Hour,
		"1d": 24 * time.Hour, "5m": 5 * time.Minute,
		"7s": 7 * time.Second, "250ms": 250 * time.Millisecond,
	} {
		if got, err := ParseLifetime(text); err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "h", "1", "-1h", "1.5h", "1h30m", "999999999y"} {
		if got, err := ParseLifetime(text); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
}

func TestRootIsMadeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, err := embedded.Open(embedded.Config{InMemory: true, Sealer: sealer{}})
		if err != nil {
			t.Fatal(err)
		}
		rep := replica.New(replica.Config{Store: st})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 2)
		go func() { done <- rep.Run(ctx) }()
		go func() { done <- New(Config{Store: st, Replica: rep}).Run(ctx) }()
		defer func() {
			cancel()
			<-done
			<-done
			_ = st.Close()
		}()
		put := func(r *mesh.Resource) {
			t.Helper()
			if _, err := st.Commit(ctx, store.Txn{Ops: []store.Op{store.Put{Resource: r}}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		put(builtin("shop"))
		first, _, err := Root(rep.View(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		again := builtin("shop")
		again.Spec.(*meshv1.Mesh).Networking = &meshv1.Mesh_Networking{}
		put(again)
		if second, _, err := Root(rep.View(), "shop"); err != nil ||
			string(second.Cert) != string(first.Cert) {
			t.Errorf("the root changed: %v", err)
		}
		// Half a root is not replaced.
		if _, err := st.Commit(ctx,
			store.Txn{Ops: []store.Op{store.Delete{Key: RootKeyKey("shop", "ca")}}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := rep.View().Get(RootKeyKey("shop", "ca")); ok {
			t.Error("a new key was made beside the old certificate")
		}

		put(builtin("other"))
		csr, _, err := pki.NewCSR("other", "us-east")
		if err != nil {
			t.Fatal(err)
		}
		if signed, err := Sign(rep.View(), "other", csr); err != nil || signed.ProvidedKey != nil ||
			len(signed.Chain) == 0 {
			t.Errorf("Sign = %v", err)
		}
		foreign, _, err := pki.NewCSR("shop", "us-east")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Sign(rep.View(), "other", foreign); err == nil {
			t.Error("a request for another mesh was signed")
		}
		if _, err := Sign(rep.View(), "none", csr); !errors.Is(err, ErrNoAuthority) {
			t.Errorf("Sign of an unknown mesh = %v", err)
		}
	})
}

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
