package role

import (
	"context"
	"errors"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
)

var defaultMeshKey = mesh.Key{Kind: mesh.KindMesh, Name: mesh.DefaultMesh}

type sealer struct{}

func (sealer) Seal(plain, _ []byte) ([]byte, error)  { return plain, nil }
func (sealer) Open(sealed, _ []byte) ([]byte, error) { return sealed, nil }
func (sealer) Fingerprint() string                   { return "none" }

// keys makes secrets without the cost of real ones.
type fakeKeys struct{ ensured int }

func (k *fakeKeys) EnsureKeys(context.Context) error            { k.ensured++; return nil }
func (k *fakeKeys) EnsureMeshKey(context.Context, string) error { return nil }
func (k *fakeKeys) NewMeshKey(m string) (*mesh.Resource, error) {
	return &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindSecret, Mesh: m, Name: "dataplane-token-signing-key-" + m + "-1"},
		Spec: &meshv1.Secret{Data: []byte("k")},
	}, nil
}

func TestDefaultMeshIsCreatedOnce(t *testing.T) {
	t.Parallel()
	st, err := embedded.Open(embedded.Config{InMemory: true, Sealer: sealer{}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	ctx := context.Background()
	for range 2 {
		if err := ensureOwned(ctx, st, &fakeKeys{}, false); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := st.Revision(ctx); err != nil || r != 1 {
		t.Errorf("revision %d %v, want 1: one transaction", r, err)
	}
	if _, err := st.Commit(ctx,
		store.Txn{Ops: []store.Op{store.Delete{Key: defaultMeshKey}}}); err != nil {
		t.Fatal(err)
	}
	if err := ensureOwned(ctx, st, &fakeKeys{}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Get(ctx, defaultMeshKey); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a mesh that a user deleted came back: %v", err)
	}
}
