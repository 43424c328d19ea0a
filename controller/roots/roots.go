package roots

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Config of a Reconciler. Store and Replica are required.
type Config struct {
	Store   store.Store
	Replica *replica.Replica
	// Logger may be nil.
	Logger *zap.Logger
}

// Reconciler makes the roots of meshes; see the package comment.
type Reconciler struct {
	cfg Config
	log *zap.Logger
}

// New makes a Reconciler; [Reconciler.Run] starts it.
func New(cfg Config) *Reconciler {
	r := &Reconciler{cfg: cfg, log: cfg.Logger}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	return r
}

// Bounds of the delay after a failed write.
const (
	minRetry = 50 * time.Millisecond
	maxRetry = 5 * time.Second
)

// Run makes roots until ctx ends and returns its error, or that of a store that was closed.
func (r *Reconciler) Run(ctx context.Context) error {
	sub := r.cfg.Replica.Subscribe()
	defer sub.Close()
	dirty := map[string]bool{}
	var retry time.Duration
	for {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if retry > 0 {
			wait, cancel = context.WithTimeout(ctx, retry)
		}
		batch, err := sub.Next(wait)
		cancel()
		switch {
		case err == nil:
			touched(batch, dirty)
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		failed := false
		for name := range dirty {
			err := r.ensure(ctx, name)
			switch conflict := (*store.ConflictError)(nil); {
			case err == nil || errors.As(err, &conflict):
				delete(dirty, name)
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, store.ErrClosed):
				return err
			default:
				failed = true
				r.log.Warn("the certificate authority of a mesh was not made, will try again",
					zap.String("mesh", name), zap.Error(err))
			}
		}
		if failed {
			retry = min(max(retry*2, minRetry), maxRetry)
		} else {
			retry = 0
		}
	}
}

// touched notes the meshes whose root may have to be made.
func touched(b replica.Batch, dirty map[string]bool) {
	if b.Reset {
		for m := range b.View.List(mesh.KindMesh, "") {
			dirty[m.Key.Name] = true
		}
		return
	}
	for _, c := range b.Changes {
		switch c.Key.Kind {
		case mesh.KindMesh:
			dirty[c.Key.Name] = true
		case mesh.KindSecret:
			if c.Type == store.ChangeDelete {
				dirty[c.Key.Mesh] = true
			}
		}
	}
}

func (r *Reconciler) ensure(ctx context.Context, name string) error {
	view := r.cfg.Replica.View()
	m, _ := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: name})
	b := ca.Backend(m)
	if b == nil || b.GetType() != "builtin" {
		if b.GetType() == "provided" {
			return r.warnProvided(ctx, view, m)
		}
		return nil
	}
	certKey, keyKey := ca.RootCertKey(name, b.GetName()), ca.RootKeyKey(name, b.GetName())
	cert, hasCert := view.Get(certKey)
	_, hasKey := view.Get(keyKey)
	switch {
	case hasCert && hasKey:
		return nil
	case hasCert || hasKey:
		r.log.Error("half of a mesh's certificate authority is gone; restore the Secret, or "+
			"delete the other "+
			"one too to have a new "+
			"authority made", zap.String("mesh", name), zap.Bool("certificate", hasCert && cert != nil),
			zap.Bool("key", hasKey))
		return nil
	}
	validity, err := ca.ParseLifetime(cmp.Or(b.GetConf().GetCaCert().GetExpiration(), "10y"))
	if err != nil {
		return fmt.Errorf("expiration of the CA: %w", err)
	}
	certPEM, keyPEM, err := pki.NewRoot(name, validity)
	if err != nil {
		return err
	}
	labels := map[string]string{mesh.LabelMesh: name, mesh.LabelOrigin: mesh.OriginGlobal}
	_, err = r.cfg.Store.Commit(ctx, store.Txn{
		Actor:  "system:authority",
		Checks: []store.Check{store.KeyAt{Key: certKey}, store.KeyAt{Key: keyKey}},
		Ops: []store.Op{
			store.Put{Resource: &mesh.Resource{
				Key:    certKey,
				Labels: labels,
				Spec:   &meshv1.Secret{Data: certPEM},
			}},
			store.Put{Resource: &mesh.Resource{
				Key:    keyKey,
				Labels: labels,
				Spec:   &meshv1.Secret{Data: keyPEM},
			}},
		},
	})
	if err == nil {
		r.log.Info("made the certificate authority of a mesh", zap.String("mesh", name),
			zap.String("backend", b.GetName()))
	}
	return err
}

// warnProvided notes on the Mesh that its provided CA's key goes to the zones.
func (r *Reconciler) warnProvided(ctx context.Context, view replica.View, m *mesh.Resource) error {
	next := &meshv1.DeliveryStatus{}
	if old := mesh.Status[*meshv1.DeliveryStatus](m); old != nil {
		next = proto.Clone(old).(*meshv1.DeliveryStatus)
	}
	cond := &meshv1.Condition{Type: "AuthorityReady", Status: "True", Reason: "Intermediates"}
	p, _, err := ca.Root(view, m.Key.Name)
	switch {
	case err != nil:
		cond.Status, cond.Reason, cond.Message = "False", "NotFound", err.Error()
	case !ca.MaySign(p.Cert):
		cond.Reason = "KeyGoesToZones"
		cond.Message = "the provided certificate may not sign intermediates (path length 0), so " +
			"its private " +
			"key goes to every zone"
	}
	kept := next.Conditions[:0]
	for _, c := range next.Conditions {
		if c.GetType() != cond.GetType() {
			kept = append(kept, c)
		}
	}
	next.Conditions = append(kept, cond)
	_, err = r.cfg.Store.Commit(ctx, store.Txn{
		Actor: "system:authority",
		Ops:   []store.Op{store.PutStatus{Key: m.Key, Status: next}},
	})
	return err
}
