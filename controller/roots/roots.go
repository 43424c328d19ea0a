package roots

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// defaultValidity is how long the root of a builtin backend is valid unless the Mesh says otherwise.
const defaultValidity = 10 * 365 * 24 * time.Hour

// Reconciler creates the roots of meshes; see the package comment.
type Reconciler struct {
	*reconcile.Loop
}

// New makes a Reconciler; its Run starts it.
func New(deps reconcile.Deps) *Reconciler {
	deps = deps.WithDefaults()
	return &Reconciler{Loop: reconcile.New(reconcile.Config{
		Deps:       deps,
		Name:       "roots",
		Author:     "system:authority",
		Controller: &controller{log: deps.Logger, dirty: map[string]bool{}},
		Follow:     true,
	})}
}

// controller plans roots. dirty are the meshes to look at.
type controller struct {
	log   *zap.Logger
	dirty map[string]bool
	// failed are the meshes that could not be planned, created those that get a root by the plan.
	failed  map[string]bool
	created []string
}

// Plan implements [reconcile.Controller].
func (c *controller) Plan(_ context.Context, in reconcile.Input) reconcile.Plan {
	if in.Batch != nil {
		markDirty(*in.Batch, c.dirty)
	}

	var plan reconcile.Plan
	c.failed, c.created = map[string]bool{}, nil
	for _, name := range slices.Sorted(maps.Keys(c.dirty)) {
		if err := c.ensure(in.View, name, &plan); err != nil {
			c.failed[name] = true
			plan.Err = errors.Join(plan.Err, fmt.Errorf("certificate authority of mesh %q: %w", name, err))
		}
	}
	return plan
}

// Done implements [reconcile.Controller].
func (c *controller) Done(err error) {
	if err != nil {
		return
	}
	c.dirty = c.failed
	for _, name := range c.created {
		c.log.Info("created the certificate authority of a mesh", zap.String("mesh", name))
	}
}

// markDirty notes the meshes whose root may be missing.
func markDirty(b replica.Batch, dirty map[string]bool) {
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

// ensure plans the root of a mesh if it has none.
func (c *controller) ensure(view replica.View, name string, plan *reconcile.Plan) error {
	m, _ := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: name})
	b := ca.Backend(m)
	switch b.GetType() {
	case "provided":
		plan.Ops = append(plan.Ops, authorityReady(view, m)...)
		return nil
	case "builtin":
	default:
		return nil
	}

	certKey, keyKey := secrets.RootCert(name, b.GetName()), secrets.RootKey(name, b.GetName())
	_, hasCert := view.Get(certKey)
	_, hasKey := view.Get(keyKey)
	switch {
	case hasCert && hasKey:
		return nil
	case hasCert || hasKey:
		c.log.Error("half of a mesh's certificate authority is gone; restore the Secret, or delete the "+
			"other one too to have a new authority created", zap.String("mesh", name),
			zap.Bool("certificate", hasCert), zap.Bool("key", hasKey))
		return nil
	}

	validity, err := mesh.ParseExpiration(b.GetConf().GetCaCert().GetExpiration())
	if err != nil {
		return fmt.Errorf("expiration of the CA: %w", err)
	}
	if validity == 0 {
		validity = defaultValidity
	}
	certPEM, keyPEM, err := pki.NewRoot(name, validity)
	if err != nil {
		return err
	}
	labels := map[string]string{mesh.LabelMesh: name, mesh.LabelOrigin: mesh.OriginGlobal}
	secret := func(key mesh.Key, data []byte) store.Op {
		return store.Put{Resource: &mesh.Resource{
			Key:    key,
			Labels: labels,
			Spec:   &meshv1.Secret{Data: data},
		}}
	}
	plan.Checks = append(plan.Checks, store.KeyAt{Key: certKey}, store.KeyAt{Key: keyKey})
	plan.Ops = append(plan.Ops, secret(certKey, certPEM), secret(keyKey, keyPEM))
	c.created = append(c.created, name)
	return nil
}

// authorityReady notes on the Mesh whether its provided CA can be used, and whether its key goes to
// the zones. It is nothing if the Mesh has that status.
func authorityReady(view replica.View, m *mesh.Resource) []store.Op {
	old := mesh.Status[*meshv1.DeliveryStatus](m)
	next := &meshv1.DeliveryStatus{}
	if old != nil {
		next = proto.Clone(old).(*meshv1.DeliveryStatus)
	}

	cond := &meshv1.Condition{Type: "AuthorityReady", Status: "True", Reason: "Intermediates"}
	p, _, err := ca.Root(view, m.Key.Name)
	switch {
	case err != nil:
		cond.Status, cond.Reason, cond.Message = "False", "NotFound", err.Error()
	case !ca.MaySign(p.Cert):
		cond.Reason = "KeyGoesToZones"
		cond.Message = "the provided certificate may not sign intermediates (path length 0), so its " +
			"private key goes to every zone"
	}

	kept := next.Conditions[:0]
	for _, c := range next.Conditions {
		if c.GetType() != cond.GetType() {
			kept = append(kept, c)
		}
	}
	next.Conditions = append(kept, cond)
	if proto.Equal(old, next) {
		return nil
	}
	return []store.Op{store.PutStatus{Key: m.Key, Status: next}}
}
