package role

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/localapi"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy/defaults"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// bootstrap creates what a control plane needs at its first start; it ends early.
func (p *ControlPlane) bootstrap(ctx context.Context) error {
	select {
	case <-p.replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}

	ensure := p.tokens.EnsureUserKey
	if p.opts.OwnsMeshes {
		ensure = func(ctx context.Context) error {
			return ensureOwned(ctx, p.cfg.Store, p.tokens, p.cfg.SkipDefaultMesh)
		}
	}
	err := reconcile.Retry(ctx, p.log, "create the first keys", func() error { return ensure(ctx) })
	if err != nil {
		return err
	}
	close(p.keys)
	return p.keepAdminToken(ctx)
}

// keepAdminToken writes the first administrator's token into the data directory. Who took it out of the
// store wants none.
func (p *ControlPlane) keepAdminToken(ctx context.Context) error {
	if p.cfg.DataDir == "" {
		return nil
	}
	token, err := p.tokens.AdminToken(ctx)
	if err == nil {
		err = localapi.WriteToken(p.cfg.DataDir, token)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		p.log.Warn("the administrator's token could not be written to the data directory; the socket there "+
			"works without it", zap.Error(err))
	}
	return nil
}

// keys makes the signing keys of tokens; [tokens.Tokens] is one.
type keys interface {
	EnsureKeys(ctx context.Context) error
	EnsureMeshKey(ctx context.Context, meshName string) error
	NewMeshKey(meshName string) (*mesh.Resource, error)
}

// defaultMeshMeta marks a store in which the mesh "default" was created once: from then on it is the
// user's to delete.
const defaultMeshMeta = "defaults/mesh"

// ensureOwned creates the signing keys, the administrator's token, and the mesh "default" unless
// skipDefaultMesh.
func ensureOwned(ctx context.Context, st store.Store, k keys, skipDefaultMesh bool) error {
	if err := k.EnsureKeys(ctx); err != nil {
		return err
	}
	if skipDefaultMesh {
		return nil
	}
	if done, err := st.Meta(ctx, defaultMeshMeta); err != nil || done != nil {
		return err
	}

	_, err := st.Get(ctx, mesh.Key{Kind: mesh.KindMesh, Name: mesh.DefaultMesh})
	switch {
	case err == nil:
		return k.EnsureMeshKey(ctx, mesh.DefaultMesh)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}

	secret, err := k.NewMeshKey(mesh.DefaultMesh)
	if err != nil {
		return err
	}
	_, err = st.Commit(ctx, defaultMesh(secret))
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		return nil // another replica did it
	}
	return err
}

// defaultMesh is the transaction that creates the mesh "default" in a store without it.
func defaultMesh(tokenKey *mesh.Resource) store.Txn {
	m := &mesh.Resource{
		// No origin label: a Mesh that a user writes has none either, and an update may not drop one.
		Key:  mesh.Key{Kind: mesh.KindMesh, Name: mesh.DefaultMesh},
		Spec: &meshv1.Mesh{},
	}
	txn := store.Txn{
		Author: "system:defaults",
		Checks: []store.Check{store.KeyAt{Key: m.Key}},
		Ops:    []store.Op{store.Put{Resource: m}},
	}
	txn.Ops = append(txn.Ops, putDefaults(m)...)
	txn.Ops = append(txn.Ops,
		store.Put{Resource: tokenKey},
		store.SetMeta{Name: defaultMeshMeta, Value: []byte{1}})
	return txn
}

func putDefaults(m *mesh.Resource) []store.Op {
	var ops []store.Op
	for _, r := range defaults.Policies(m) {
		ops = append(ops, store.Put{Resource: r})
	}
	return ops
}

// onMesh returns what comes with a new Mesh in its transaction: default policies and the token key.
func onMesh(k keys, log *zap.Logger) func(view replica.View, m *mesh.Resource, created bool) []store.Op {
	return func(view replica.View, m *mesh.Resource, created bool) []store.Op {
		if !created {
			return nil
		}
		ops := putDefaults(m)
		key, err := k.NewMeshKey(m.Key.Name)
		if err != nil {
			log.Error("no token key was created for a new mesh",
				zap.String("mesh", m.Key.Name),
				zap.Error(err))
			return ops
		}
		if _, ok := view.Get(key.Key); !ok {
			ops = append(ops, store.Put{Resource: key})
		}
		return ops
	}
}
