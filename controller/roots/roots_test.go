package roots

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/reconcile"
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
		go func() { done <- New(reconcile.Deps{Store: st, Replica: rep}).Run(ctx) }()
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
		first, _, err := ca.Root(rep.View(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		again := builtin("shop")
		again.Spec.(*meshv1.Mesh).Networking = &meshv1.Mesh_Networking{}
		put(again)
		if second, _, err := ca.Root(rep.View(), "shop"); err != nil ||
			string(second.Cert) != string(first.Cert) {
			t.Errorf("the root changed: %v", err)
		}
		// Half a root is not replaced.
		if _, err := st.Commit(ctx,
			store.Txn{Ops: []store.Op{store.Delete{Key: secrets.RootKey("shop", "ca")}}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := rep.View().Get(secrets.RootKey("shop", "ca")); ok {
			t.Error("a new key was made beside the old certificate")
		}

		// Every lifetime that validation admits makes a root.
		for text, lifetime := range map[string]time.Duration{"1d12h": 36 * time.Hour, "0": defaultValidity} {
			long := builtin("m" + text)
			long.Spec.(*meshv1.Mesh).Mtls.Backends[0].Conf = &meshv1.Mesh_Conf{
				CaCert: &meshv1.Mesh_CaCert{Expiration: text},
			}
			put(long)
			root, _, err := ca.Root(rep.View(), long.Key.Name)
			if err != nil {
				t.Errorf("lifetime %s: %v", text, err)
				continue
			}
			block, _ := pem.Decode(root.Cert)
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(cert.NotAfter); left < lifetime-time.Hour || left > lifetime+time.Hour {
				t.Errorf("lifetime %s: valid for %v", text, left)
			}
		}

		put(builtin("other"))
		csr, _, err := pki.NewCSR("other", "us-east")
		if err != nil {
			t.Fatal(err)
		}
		if signed, err := ca.Sign(rep.View(), "other", csr); err != nil || signed.ProvidedKey != nil ||
			len(signed.Chain) == 0 {
			t.Errorf("Sign = %v", err)
		}
		foreign, _, err := pki.NewCSR("shop", "us-east")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ca.Sign(rep.View(), "other", foreign); err == nil {
			t.Error("a request for another mesh was signed")
		}
		if _, err := ca.Sign(rep.View(), "none", csr); !errors.Is(err, ca.ErrNoAuthority) {
			t.Errorf("Sign of an unknown mesh = %v", err)
		}
	})
}
