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
	"github.com/meridian-mesh/meridian/store/replica"
)

// Bounds of the delay between requests while global is away, and the longest time until a look at
// what is due.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 15 * time.Second
	maxSleep = 24 * time.Hour
)

// obtain gets intermediates for the meshes that need one.
func (i *Issuer) obtain(ctx context.Context) error {
	select {
	case <-i.cfg.Replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	retry := time.Duration(0)
	for {
		failed := false
		sleep := maxSleep
		view := i.cfg.Replica.View()
		for m := range view.List(mesh.KindMesh, "") {
			at, need := i.need(view, m, time.Now())
			if !need {
				if !at.IsZero() {
					sleep = min(sleep, time.Until(at))
				}
				continue
			}
			err := i.request(ctx, view, m)
			var conflict *store.ConflictError
			switch {
			case err == nil, errors.As(err, &conflict):
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, store.ErrClosed):
				return err
			default:
				failed = true
				i.failures.Inc()
				i.log.Warn("no intermediate authority was obtained, will try again",
					zap.String("mesh", m.Key.Name), zap.Error(err))
			}
		}
		if failed {
			retry = min(max(retry*2, minRetry), maxRetry)
			sleep = retry
		} else {
			retry = 0
		}
		if err := i.sleep(ctx, max(sleep, time.Millisecond)); err != nil {
			return err
		}
	}
}

func (i *Issuer) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-i.wake:
	case <-t.C:
	}
	return nil
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

// request has a new intermediate signed and keeps it.
func (i *Issuer) request(ctx context.Context, view replica.View, m *mesh.Resource) error {
	b := ca.Backend(m)
	csr, key, err := pki.NewCSR(m.Key.Name, i.cfg.Zone)
	if err != nil {
		return err
	}
	signed, err := i.cfg.Sign(ctx, m.Key.Name, csr)
	if err != nil {
		return err
	}
	if signed.ProvidedKey != nil {
		key = signed.ProvidedKey
	}
	chain := signed.Chain
	if a, err := pki.LoadAuthority(chain, key); err != nil {
		return fmt.Errorf("global's answer cannot be used: %w", err)
	} else if a.Root() == nil {
		chain = slices.Concat(chain, []byte("\n"), signed.Root)
	}
	secret := i.secretKey(m.Key.Name, b.GetName())
	var revision uint64
	if old, ok := view.Get(secret); ok {
		revision = old.Revision
	}
	res, err := i.cfg.Store.Commit(ctx, store.Txn{
		Actor:  "system:identity",
		Checks: []store.Check{store.KeyAt{Key: secret, Revision: revision}},
		Ops: []store.Op{store.Put{Resource: &mesh.Resource{
			Key: secret,
			Labels: map[string]string{mesh.LabelMesh: m.Key.Name, mesh.LabelZone: i.cfg.Zone,
				mesh.LabelOrigin: mesh.OriginZone},
			Spec: &meshv1.Secret{Data: slices.Concat(certificates(chain), privateKey(key))},
		}}},
	})
	if err != nil {
		return err
	}
	i.issued.WithLabelValues("intermediate").Inc()
	i.log.Info("obtained an intermediate authority", zap.String("mesh", m.Key.Name),
		zap.String("backend", b.GetName()))
	_, err = i.cfg.Replica.Wait(ctx, res.Revision)
	return err
}
