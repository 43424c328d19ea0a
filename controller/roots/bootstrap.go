package roots

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Keys creates the signing keys of tokens; [tokens.Tokens] is one.
type Keys interface {
	EnsureKeys(ctx context.Context) error
	EnsureMeshKey(ctx context.Context, meshName string) error
	NewMeshKey(meshName string) (*mesh.Resource, error)
}

// OnMesh gives what comes with a new Mesh in its transaction: default policies and the token key.
func OnMesh(keys Keys, log *zap.Logger) func(view replica.View, m *mesh.Resource, created bool) []store.Op {
	return func(view replica.View, m *mesh.Resource, created bool) []store.Op {
		if !created {
			return nil
		}
		ops := Defaults(m)
		key, err := keys.NewMeshKey(m.Key.Name)
		if err != nil {
			log.Error("no token key was created for a new mesh", zap.String("mesh", m.Key.Name), zap.Error(err))
			return ops
		}
		if _, there := view.Get(key.Key); !there {
			ops = append(ops, store.Put{Resource: key})
		}
		return ops
	}
}

// Bootstrap creates what a control plane that owns meshes needs at its first start: signing keys, the
// administrator's token, and the mesh "default" unless skipDefaultMesh. It retries while the store
// is unavailable, and fails only with ctx's error or when the store cannot be used at all.
func Bootstrap(ctx context.Context, st store.Store, keys Keys, skipDefaultMesh bool, log *zap.Logger) error {
	return reconcile.Retry(ctx, log, "create the first keys and the default mesh", func() error {
		if err := keys.EnsureKeys(ctx); err != nil {
			return err
		}
		if skipDefaultMesh {
			return nil
		}
		key := mesh.Key{Kind: mesh.KindMesh, Name: mesh.DefaultMesh}
		// Created once: a user may delete the mesh.
		if done, err := st.Meta(ctx, defaultMeshMeta); err != nil || done != nil {
			return err
		}
		_, err := st.Get(ctx, key)
		switch {
		case err == nil:
			return keys.EnsureMeshKey(ctx, mesh.DefaultMesh)
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		secret, err := keys.NewMeshKey(mesh.DefaultMesh)
		if err != nil {
			return err
		}
		txn := EnsureDefaultMesh(store.Put{Resource: secret})
		txn.Ops = append(txn.Ops, store.SetMeta{Name: defaultMeshMeta, Value: []byte{1}})
		var conflict *store.ConflictError
		if _, err := st.Commit(ctx, txn); err != nil && !errors.As(err, &conflict) {
			return err
		}
		return nil
	})
}

const defaultMeshMeta = "defaults/mesh"
