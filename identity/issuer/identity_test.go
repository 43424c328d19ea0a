package issuer

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/controller/roots"
	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/ir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type sealer struct{}

func (sealer) Seal(plain, _ []byte) ([]byte, error)  { return plain, nil }
func (sealer) Open(sealed, _ []byte) ([]byte, error) { return sealed, nil }
func (sealer) Fingerprint() string                   { return "none" }

// world is a zone whose global signs when it is not away.
type world struct {
	t      *testing.T
	st     store.Store
	issuer *Issuer

	mu     sync.Mutex
	away   bool
	signed int
	ids    map[mesh.Key]*ir.Identity
	sets   int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true, Sealer: sealer{}})
	if err != nil {
		t.Fatal(err)
	}
	rep := replica.New(replica.Config{Store: st})
	w := &world{t: t, st: st, ids: map[mesh.Key]*ir.Identity{}}
	w.issuer = New(Config{
		Deps: reconcile.Deps{Store: st, Replica: rep},
		Zone: "us-east",
		Sign: func(_ context.Context, meshName string, csr []byte) (ca.Signed, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.away {
				return ca.Signed{}, errors.New("global is unreachable")
			}
			w.signed++
			return ca.Sign(rep.View(), meshName, csr)
		},
		Set: func(k mesh.Key, id *ir.Identity) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ids[k] = id
			w.sets++
		},
	})
	rootsLoop := roots.New(reconcile.Deps{Store: st, Replica: rep})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 3)
	for _, run := range []func(context.Context) error{rep.Run, w.issuer.Run, rootsLoop.Run} {
		go func() { done <- run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range 3 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		}
		_ = st.Close()
	})
	return w
}

func (w *world) put(rs ...*mesh.Resource) {
	w.t.Helper()
	var ops []store.Op
	for _, r := range rs {
		ops = append(ops, store.Put{Resource: r})
	}
	if _, err := w.st.Commit(context.Background(), store.Txn{Ops: ops}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func withMTLS(expiration string) *mesh.Resource {
	b := &meshv1.Mesh_Backend{Name: "ca", Type: "builtin"}
	if expiration != "" {
		b.DpCert = &meshv1.Mesh_DpCert{Rotation: &meshv1.Mesh_Rotation{Expiration: expiration}}
	}
	return &mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: &meshv1.Mesh{
		Mtls: &meshv1.Mesh_Mtls{EnabledBackend: "ca", Backends: []*meshv1.Mesh_Backend{b}}}}
}

func dataplane(name string, services ...string) *mesh.Resource {
	dp := &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Address: "10.0.0.1"}}
	for i, s := range services {
		dp.Networking.Inbound = append(dp.Networking.Inbound, &meshv1.Dataplane_Inbound{
			Port: uint32(80 + i),
			Tags: map[string]string{mesh.TagService: s},
		})
	}
	return &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "us-east", Name: name},
		Spec: dp,
	}
}

func (w *world) identity(dp *mesh.Resource) *ir.Identity {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ids[dp.Key]
}

func TestLeafHangsOnRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		dp := dataplane("a", "web", "api")
		w.put(withMTLS(""), dp)
		id := w.identity(dp)
		if id == nil {
			t.Fatal("no identity was issued")
		}
		want := []string{"kuma://kuma.io/service/api", "kuma://kuma.io/service/web", "spiffe://default/api",
			"spiffe://default/web"}
		if !slices.Equal(id.URIs, want) {
			t.Errorf("URIs %v, want %v", id.URIs, want)
		}
		if got := time.Until(id.Expires); got > 24*time.Hour || got < 23*time.Hour {
			t.Errorf("it lives %s, want 24h", got)
		}
		root, err := w.st.Get(context.Background(), secrets.RootCert("default", "ca"))
		if err != nil {
			t.Fatal(err)
		}
		roots, inter := x509.NewCertPool(), x509.NewCertPool()
		roots.AppendCertsFromPEM(mesh.Spec[*meshv1.Secret](root).GetData())
		block, rest := pem.Decode(id.Chain)
		inter.AppendCertsFromPEM(rest)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{
			Roots:         roots,
			Intermediates: inter,
			CurrentTime:   time.Now(),
			KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}); err != nil {
			t.Errorf("the leaf does not hang on the root: %v", err)
		}
	})
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		dp := dataplane("a", "web")
		w.put(withMTLS("10h"), dp)
		first := w.identity(dp)
		time.Sleep(7 * time.Hour)
		if w.identity(dp) != first {
			t.Error("renewed before 4/5 of its life")
		}
		time.Sleep(61 * time.Minute)
		second := w.identity(dp)
		if second == first {
			t.Fatal("not renewed at 4/5 of its life")
		}
		dp = dataplane("a", "web", "more")
		w.put(dp)
		if third := w.identity(dp); third == second || len(third.URIs) != 4 {
			t.Errorf("changed tags did not renew at once: %v", third)
		}
		before := w.signed
		time.Sleep(16 * 24 * time.Hour)
		synctest.Wait()
		if w.signed != before+1 {
			t.Errorf("the intermediate was signed %d times at half its life, want 1", w.signed-before)
		}
	})
}

func TestGlobalAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.away = true
		dp := dataplane("a", "web")
		w.put(withMTLS(""), dp)
		time.Sleep(time.Hour)
		if w.identity(dp) != nil {
			t.Fatal("issued without an authority")
		}
		w.mu.Lock()
		w.away = false
		w.mu.Unlock()
		time.Sleep(maxRetry + time.Second)
		if w.identity(dp) == nil {
			t.Fatal("not issued after global returned")
		}
		// From now on the zone issues on its own for more than a fortnight.
		w.mu.Lock()
		w.away = true
		w.mu.Unlock()
		other := dataplane("b", "web")
		time.Sleep((15*24 + 6) * time.Hour)
		w.put(other)
		if w.identity(other) == nil {
			t.Error("a zone cut off for 15 days does not issue")
		}
	})
}

func TestMTLSOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		dp := dataplane("a", "web")
		w.put(withMTLS(""), dp)
		if w.identity(dp) == nil {
			t.Fatal("not issued")
		}
		w.put(&mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: &meshv1.Mesh{}})
		if w.identity(dp) != nil {
			t.Error("mTLS is off, yet the proxy keeps its identity")
		}
	})
}
