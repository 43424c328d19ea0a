package roots

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Keys makes the signing keys of tokens; internal/auth's Tokens is one.
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
			log.Error("no token key was made for a new mesh", zap.String("mesh", m.Key.Name), zap.Error(err))
			return ops
		}
		if _, there := view.Get(key.Key); !there {
			ops = append(ops, store.Put{Resource: key})
		}
		return ops
	}
}

// Bootstrap makes what a control plane that owns meshes needs at its first start: signing keys, the
// administrator's token, and the mesh "default" unless skipDefaultMesh. It retries while the store
// is away, and fails only with ctx's error or when the store cannot be used at all.
func Bootstrap(ctx context.Context, st store.Store, keys Keys, skipDefaultMesh bool, log *zap.Logger) error {
	return Retry(ctx, log, "make the first keys and the default mesh", func() error {
		if err := keys.EnsureKeys(ctx); err != nil {
			return err
		}
		if skipDefaultMesh {
			return nil
		}
		key := mesh.Key{Kind: mesh.KindMesh, Name: mesh.DefaultMesh}
		// Once made, the mesh is a person's to delete.
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

// Retry runs do until it succeeds, with backoff while the store is away. Other errors are returned.
func Retry(ctx context.Context, log *zap.Logger, what string, do func() error) error {
	var retry time.Duration
	for {
		err := do()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, store.ErrUnavailable):
			return fmt.Errorf("%s: %w", what, err)
		}
		retry = min(max(retry*2, minRetry), maxRetry)
		log.Warn("the store is away, will try again", zap.String("to", what), zap.Error(err),
			zap.Duration("in", retry))
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}
