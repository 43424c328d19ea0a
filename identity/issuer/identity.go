// Package issuer gives the zone's proxies their certificates.
//
// # Authorities
//
// For every mesh with a builtin backend the zone holds an intermediate: its key is made here and
// never leaves, global signs it (a standalone zone signs with its own root). It is kept as a Secret
// of the zone, <mesh>.ca-intermediate-<backend>, which no stream carries; so a zone that restarts
// while global is unreachable still issues. It lives 30 days and is renewed at half its life, and at
// once when the root changes. Requests to global are retried with backoff for as long as it takes. A provided
// backend that may not sign intermediates comes to the zone as it is and is used directly.
//
// # Leaves
//
// A Dataplane of the zone has one certificate with the URIs spiffe://<mesh>/<service> and
// kuma://<tag>/<value> of its tags, as in Kuma. It is renewed at 4/5 of its life, and at once when
// its tags, the backend or the root change. A renewed intermediate of the same root does not renew
// the leaves. Keys are in memory only.
//
// # Concurrency
//
// [Issuer.Run] owns two loops: one that obtains intermediates and may wait for global, one that
// issues leaves and never waits. [Issuer.Issue] issues a joining proxy's leaf at once, in the
// caller's goroutine; the mutex is held over that.
//
// No example: an Issuer needs a running store and a replica of it.
package issuer

import (
	"context"
	"encoding/pem"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Config of an Issuer. Zone, Store, Replica, Sign and Set are required.
type Config struct {
	reconcile.Deps
	Zone string
	// Sign has an intermediate signed by the mesh's root. It may take as long as it needs; it ends with ctx.
	Sign func(ctx context.Context, meshName string, csrDER []byte) (ca.Signed, error)
	// Set hands a proxy's identity to the engine; nil takes it away.
	Set func(proxy mesh.Key, id *ir.Identity)
}

// Issuer issues certificates; see the package comment.
type Issuer struct {
	cfg  Config
	log  *zap.Logger
	wake chan struct{}
	// obtain keeps the intermediate authorities.
	obtain *reconcile.Loop

	issued   *prometheus.CounterVec
	failures prometheus.Counter

	mu          sync.Mutex
	authorities map[string]authority
	leaves      map[mesh.Key]leaf
}

// authority of a mesh as it is in use.
type authority struct {
	signer *pki.Authority
	// source is the PEM it was read from; root identifies the trust anchor.
	source, root string
	lifetime     time.Duration
}

// leaf is what a proxy holds.
type leaf struct {
	uris    []string
	root    string
	renewAt time.Time
}

// New makes an Issuer; [Issuer.Run] starts it.
func New(cfg Config) *Issuer {
	cfg.Deps = cfg.Deps.WithDefaults()
	i := &Issuer{
		cfg:         cfg,
		log:         cfg.Logger,
		wake:        make(chan struct{}, 1),
		authorities: map[string]authority{},
		leaves:      map[mesh.Key]leaf{},
	}
	i.issued = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meridian_identity_certificates_total",
		Help: "Certificates issued or obtained by kind: leaf, intermediate. A rate far above " +
			"proxies per day " +
			"means that something forces renewal.",
	}, []string{"kind"})
	i.failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "meridian_identity_failures_total",
		Help: "Failed attempts to issue or obtain a certificate. If it keeps growing, " +
			"certificates run out: " +
			"see the log.",
	})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(i.issued, i.failures)
	}
	i.obtain = i.loop()
	return i
}

// Run issues and renews until ctx ends, and returns its error.
func (i *Issuer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return i.follow(ctx) })
	group.Go(func() error { return i.obtain.Run(ctx) })
	return group.Wait()
}

// Issue gives a joining Dataplane its identity, if the mesh has an authority here; otherwise
// [Issuer.Run] does as soon as there is one.
func (i *Issuer) Issue(_ context.Context, dataplane *mesh.Resource) {
	i.mu.Lock()
	defer i.mu.Unlock()
	view := i.cfg.Replica.View()
	if _, ok := i.authorities[dataplane.Key.Mesh]; !ok {
		i.load(view, dataplane.Key.Mesh)
	}
	i.leaf(dataplane, time.Now())
}

// follow keeps authorities and leaves in step with the replica.
func (i *Issuer) follow(ctx context.Context) error {
	sub := i.cfg.Replica.Subscribe()
	defer sub.Close()
	var at time.Time
	for {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if !at.IsZero() {
			wait, cancel = context.WithDeadline(ctx, at)
		}
		batch, err := sub.Next(wait)
		cancel()
		switch {
		case err == nil:
			i.apply(batch)
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		at = i.renew(time.Now())
	}
}

func (i *Issuer) apply(b replica.Batch) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	meshes := map[string]bool{}
	if b.Reset {
		for m := range b.View.List(mesh.KindMesh, "") {
			meshes[m.Key.Name] = true
		}
		for k := range i.leaves {
			meshes[k.Mesh] = true
		}
	}
	for _, c := range b.Changes {
		switch c.Key.Kind {
		case mesh.KindMesh:
			meshes[c.Key.Name] = true
		case mesh.KindSecret:
			meshes[c.Key.Mesh] = true
		case mesh.KindDataplane:
			if c.Key.Zone != i.cfg.Zone {
				continue
			}
			if c.Resource == nil {
				i.drop(c.Key)
			} else {
				i.leaf(c.Resource, now)
			}
		}
	}
	for name := range meshes {
		i.load(b.View, name)
		for dp := range b.View.List(mesh.KindDataplane, name) {
			if dp.Key.Zone == i.cfg.Zone {
				i.leaf(dp, now)
			}
		}
		if _, ok := i.authorities[name]; !ok {
			for k := range i.leaves {
				if k.Mesh == name && backendOf(b.View, name) == nil {
					i.drop(k)
				}
			}
		}
	}
	if len(meshes) > 0 {
		i.notify()
	}
}

func (i *Issuer) notify() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

func backendOf(view replica.View, meshName string) *meshv1.Mesh_Backend {
	m, _ := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: meshName})
	return ca.Backend(m)
}

// load reads the authority of a mesh from the view; mu is held.
func (i *Issuer) load(view replica.View, meshName string) {
	b := backendOf(view, meshName)
	if b == nil {
		delete(i.authorities, meshName)
		return
	}
	lifetime, err := mesh.ParseExpiration(b.GetDpCert().GetRotation().GetExpiration())
	if err != nil || lifetime == 0 {
		lifetime = 24 * time.Hour
	}
	source, root := i.material(view, meshName, b)
	if source == nil {
		delete(i.authorities, meshName)
		return
	}
	if have, ok := i.authorities[meshName]; ok && have.source == string(source) {
		have.lifetime = lifetime
		i.authorities[meshName] = have
		return
	}
	signer, err := pki.LoadAuthority(certificates(source), privateKey(source))
	if err != nil {
		i.failures.Inc()
		i.log.Error("the certificate authority of a mesh cannot be used", zap.String("mesh", meshName),
			zap.Error(err))
		delete(i.authorities, meshName)
		return
	}
	if own := signer.Root(); own != nil {
		// What the leaves hang on counts; a new root shows when the intermediate of it is here.
		root = string(own)
	}
	i.authorities[meshName] = authority{
		signer:   signer,
		source:   string(source),
		root:     root,
		lifetime: lifetime,
	}
}

// material is the PEM (chain and key) that signs in this zone, and the root it hangs on.
func (i *Issuer) material(view replica.View, meshName string,
	b *meshv1.Mesh_Backend) (source []byte, root string) {
	if b.GetType() == "provided" {
		if p, _, err := ca.Root(view, meshName); err == nil && !ca.MaySign(p.Cert) {
			return slices.Concat(p.Cert, []byte("\n"), p.Key), string(p.Cert)
		}
	}
	r, ok := view.Get(i.secretKey(meshName, b.GetName()))
	if !ok {
		return nil, ""
	}
	return mesh.Spec[*meshv1.Secret](r).GetData(), rootOf(view, meshName, b)
}

// rootOf is the trust anchor that the view holds, or empty if it is not here yet.
func rootOf(view replica.View, meshName string, b *meshv1.Mesh_Backend) string {
	if b.GetType() == "provided" {
		p, _, err := ca.Root(view, meshName)
		if err != nil {
			return ""
		}
		return string(p.Cert)
	}
	r, ok := view.Get(secrets.RootCert(meshName, b.GetName()))
	if !ok {
		return ""
	}
	return string(mesh.Spec[*meshv1.Secret](r).GetData())
}

func (i *Issuer) secretKey(meshName, backend string) mesh.Key {
	return mesh.Key{
		Kind: mesh.KindSecret,
		Mesh: meshName,
		Zone: i.cfg.Zone,
		Name: meshName + ".ca-intermediate-" + backend,
	}
}

// certificates and privateKey take a PEM file of both apart.
func certificates(data []byte) []byte { return blocks(data, true) }

func privateKey(data []byte) []byte { return blocks(data, false) }

func blocks(data []byte, certs bool) []byte {
	var out []byte
	for b, rest := pem.Decode(data); b != nil; b, rest = pem.Decode(rest) {
		if (b.Type == "CERTIFICATE") == certs {
			out = append(out, pem.EncodeToMemory(b)...)
		}
	}
	return out
}

// leaf issues a Dataplane's certificate if it has none that fits; mu is held.
func (i *Issuer) leaf(dp *mesh.Resource, now time.Time) {
	a, ok := i.authorities[dp.Key.Mesh]
	if !ok {
		return
	}
	uris := policy.CertificateURIs(dp)
	have, ok := i.leaves[dp.Key]
	if ok && have.root == a.root && slices.Equal(have.uris, uris) && now.Before(have.renewAt) {
		return
	}
	if len(uris) == 0 {
		i.drop(dp.Key)
		return
	}
	chain, key, end, err := a.signer.IssueLeaf(uris, a.lifetime, now)
	if err != nil {
		i.failures.Inc()
		i.log.Error("no certificate was issued", zap.Stringer("proxy", dp.Key), zap.Error(err))
		// The old one stays; try again a little later.
		have.renewAt = now.Add(10 * time.Second)
		i.leaves[dp.Key] = have
		return
	}
	i.issued.WithLabelValues("leaf").Inc()
	i.leaves[dp.Key] = leaf{uris: uris, root: a.root, renewAt: now.Add(end.Sub(now) * 4 / 5)}
	i.cfg.Set(dp.Key, &ir.Identity{
		Chain:   chain,
		Key:     key,
		URIs:    uris,
		Expires: end,
	})
}

func (i *Issuer) drop(k mesh.Key) {
	if _, ok := i.leaves[k]; ok {
		delete(i.leaves, k)
		i.cfg.Set(k, nil)
	}
}

// renew issues what is due and returns when to look again; zero if there is nothing.
func (i *Issuer) renew(now time.Time) time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	view := i.cfg.Replica.View()
	for k, l := range i.leaves {
		if now.Before(l.renewAt) {
			continue
		}
		if dp, ok := view.Get(k); ok {
			i.leaf(dp, now)
		}
	}
	var at time.Time
	for k, l := range i.leaves {
		if _, ok := view.Get(k); ok && now.Before(l.renewAt) && (at.IsZero() || l.renewAt.Before(at)) {
			at = l.renewAt
		}
	}
	return at
}
