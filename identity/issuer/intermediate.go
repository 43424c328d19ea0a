package issuer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Bounds of the delay between requests while global is unavailable.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 15 * time.Second
)

// intermediates is the controller that obtains the intermediate authorities of meshes. Its Plan
// asks global to sign.
type intermediates struct {
	*Issuer

	// obtained are the meshes whose intermediate the plan writes.
	obtained []string
}

// loop makes the loop of the controller.
func (i *Issuer) loop() *reconcile.Loop {
	return reconcile.New(reconcile.Config{
		Name:       "intermediates",
		Author:     "system:identity",
		Deps:       i.cfg.Deps,
		Controller: &intermediates{Issuer: i},
		Wake:       func() <-chan struct{} { return i.wake },
		MinRetry:   minRetry,
		MaxRetry:   maxRetry,
	})
}

// Plan implements [reconcile.Controller].
func (c *intermediates) Plan(ctx context.Context, in reconcile.Input) reconcile.Plan {
	var plan reconcile.Plan
	c.obtained = nil
	for m := range in.View.List(mesh.KindMesh, "") {
		at, need := c.need(in.View, m, in.Now)
		if !need {
			if !at.IsZero() && (plan.Next.IsZero() || at.Before(plan.Next)) {
				plan.Next = at
			}
			continue
		}
		check, put, err := c.request(ctx, in.View, m)
		if err != nil {
			c.failures.Inc()
			plan.Err = errors.Join(plan.Err,
				fmt.Errorf("intermediate authority of mesh %q: %w", m.Key.Name, err))
			continue
		}
		plan.Checks = append(plan.Checks, check)
		plan.Ops = append(plan.Ops, put)
		c.obtained = append(c.obtained, m.Key.Name)
	}
	if len(plan.Ops) > 0 {
		// What was obtained has its own time of renewal, which the next plan finds.
		plan.Next = in.Now
	}
	return plan
}

// Done implements [reconcile.Controller].
func (c *intermediates) Done(err error) {
	if err != nil {
		return
	}
	for _, name := range c.obtained {
		c.issued.WithLabelValues("intermediate").Inc()
		c.log.Info("obtained an intermediate authority", zap.String("mesh", name))
	}
}

// need says whether a mesh needs an intermediate now, else when it will.
func (i *Issuer) need(view replica.View, m *mesh.Resource, now time.Time) (at time.Time, need bool) {
	b := ca.Backend(m)
	if b == nil {
		return at, false
	}
	if b.GetType() == "provided" {
		if p, _, err := ca.Root(view, m.Key.Name); err == nil && !ca.MaySign(p.Cert) {
			return at, false
		}
	}
	r, ok := view.Get(i.secretKey(m.Key.Name, b.GetName()))
	if !ok {
		return at, true
	}
	data := mesh.Spec[*meshv1.Secret](r).GetData()
	a, err := pki.LoadAuthority(certificates(data), privateKey(data))
	if err != nil {
		return at, true
	}
	if root := rootOf(view, m.Key.Name, b); root != "" && !sameRoot(root, string(a.Root())) {
		return at, true
	}
	half := a.NotBefore().Add(a.NotAfter().Sub(a.NotBefore()) / 2)
	return half, !half.After(now)
}

func sameRoot(a, b string) bool {
	return string(certificates([]byte(a))) == string(certificates([]byte(b)))
}

// request has a new intermediate signed, and returns how to keep it.
func (i *Issuer) request(ctx context.Context, view replica.View, m *mesh.Resource) (store.Check, store.Op,
	error) {
	b := ca.Backend(m)
	csr, key, err := pki.NewCSR(m.Key.Name, i.cfg.Zone)
	if err != nil {
		return nil, nil, err
	}
	signed, err := i.cfg.Sign(ctx, m.Key.Name, csr)
	if err != nil {
		return nil, nil, err
	}

	if signed.ProvidedKey != nil {
		key = signed.ProvidedKey
	}
	chain := signed.Chain
	authority, err := pki.LoadAuthority(chain, key)
	if err != nil {
		return nil, nil, fmt.Errorf("global's answer cannot be used: %w", err)
	}
	if authority.Root() == nil {
		chain = slices.Concat(chain, []byte("\n"), signed.Root)
	}

	secret := i.secretKey(m.Key.Name, b.GetName())
	check := store.KeyAt{Key: secret}
	if old, ok := view.Get(secret); ok {
		check.Revision = old.Revision
	}
	labels := map[string]string{
		mesh.LabelMesh:   m.Key.Name,
		mesh.LabelZone:   i.cfg.Zone,
		mesh.LabelOrigin: mesh.OriginZone,
	}
	return check, store.Put{Resource: &mesh.Resource{
		Key:    secret,
		Labels: labels,
		Spec:   &meshv1.Secret{Data: slices.Concat(certificates(chain), privateKey(key))},
	}}, nil
}
