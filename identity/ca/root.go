package ca

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// IntermediateValidity is how long an intermediate lives; it is renewed at half of it.
const IntermediateValidity = 30 * 24 * time.Hour

// ErrNoAuthority says that a mesh has no certificate authority (yet).
var ErrNoAuthority = errors.New("mesh has no certificate authority")

// Backend is the enabled backend of a mesh; nil if mTLS is off.
func Backend(m *mesh.Resource) *meshv1.Mesh_Backend {
	if m == nil {
		return nil
	}
	mtls := mesh.Spec[*meshv1.Mesh](m).GetMtls()
	if mtls.GetEnabledBackend() == "" {
		return nil
	}
	for _, b := range mtls.GetBackends() {
		if b.GetName() == mtls.GetEnabledBackend() {
			return b
		}
	}
	return nil
}

// RootCertKey and RootKeyKey are the Secrets of a builtin backend.
func RootCertKey(meshName, backend string) mesh.Key {
	return secrets.RootCert(meshName, backend)
}

// RootKeyKey is the Secret with the private key of a builtin backend.
func RootKeyKey(meshName, backend string) mesh.Key {
	return secrets.RootKey(meshName, backend)
}

// Pair is an authority's certificate (or chain) and key as PEM.
type Pair struct{ Cert, Key []byte }

// Root reads the root pair of a mesh from the view: the builtin Secrets, or what a provided backend
// names. It fails with [ErrNoAuthority] if mTLS is off or the pair is not there.
func Root(view replica.View, meshName string) (Pair, *meshv1.Mesh_Backend, error) {
	m, _ := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: meshName})
	b := Backend(m)
	if b == nil {
		return Pair{}, nil, fmt.Errorf("%w: mTLS of mesh %q is off", ErrNoAuthority, meshName)
	}
	var p Pair
	var err error
	if b.GetType() == "provided" {
		if p.Cert, err = source(view, meshName, b.GetConf().GetCert()); err == nil {
			p.Key, err = source(view, meshName, b.GetConf().GetKey())
		}
		if err != nil {
			return Pair{}, b,
				fmt.Errorf("%w: backend %q of mesh %q: %w", ErrNoAuthority, b.GetName(), meshName, err)
		}
		return p, b, nil
	}
	p.Cert = secret(view, RootCertKey(meshName, b.GetName()))
	p.Key = secret(view, RootKeyKey(meshName, b.GetName()))
	if p.Cert == nil || p.Key == nil {
		return p, b, fmt.Errorf("%w: the root of backend %q of mesh %q is not here", ErrNoAuthority,
			b.GetName(), meshName)
	}
	return p, b, nil
}

func secret(view replica.View, k mesh.Key) []byte {
	r, ok := view.Get(k)
	if !ok {
		return nil
	}
	return mesh.Spec[*meshv1.Secret](r).GetData()
}

func source(view replica.View, meshName string, s *meshv1.DataSource) ([]byte, error) {
	switch {
	case s.GetSecret() != "":
		data := secret(view, mesh.Key{Kind: mesh.KindSecret, Mesh: meshName, Name: s.GetSecret()})
		if data == nil {
			return nil, fmt.Errorf("there is no Secret %q in mesh %q", s.GetSecret(), meshName)
		}
		return data, nil
	case len(s.GetInline()) > 0:
		return s.GetInline(), nil
	case s.GetInlineString() != "":
		return []byte(s.GetInlineString()), nil
	case s.GetFile() != "":
		return os.ReadFile(s.GetFile())
	}
	return nil, errors.New("no certificate or key is given")
}

// MaySign says whether a CA certificate may sign intermediates that sign workloads.
func MaySign(certPEM []byte) bool {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !cert.IsCA || !cert.BasicConstraintsValid {
		return false
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return false
	}
	return !cert.MaxPathLenZero
}

// Signed is an answer to a zone's request: a chain with the root, or the provided pair itself.
type Signed struct {
	// Chain is the intermediate and what it hangs on; Root is the trust anchor.
	Chain, Root []byte
	// ProvidedKey is set instead of a signature when the mesh's CA may not sign intermediates.
	ProvidedKey []byte
}

// Sign answers a zone's request for an intermediate of a mesh.
func Sign(view replica.View, meshName string, csrDER []byte) (Signed, error) {
	p, b, err := Root(view, meshName)
	if err != nil {
		return Signed{}, err
	}
	if b.GetType() == "provided" && !MaySign(p.Cert) {
		return Signed{Chain: p.Cert, Root: p.Cert, ProvidedKey: p.Key}, nil
	}
	chain, err := pki.SignIntermediate(p.Cert, p.Key, csrDER, IntermediateValidity)
	if err != nil {
		return Signed{}, fmt.Errorf("sign the intermediate of mesh %q: %w", meshName, err)
	}
	return Signed{Chain: chain, Root: p.Cert}, nil
}

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
	b := Backend(m)
	if b == nil || b.GetType() != "builtin" {
		if b.GetType() == "provided" {
			return r.warnProvided(ctx, view, m)
		}
		return nil
	}
	certKey, keyKey := RootCertKey(name, b.GetName()), RootKeyKey(name, b.GetName())
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
	validity, err := ParseLifetime(cmp.Or(b.GetConf().GetCaCert().GetExpiration(), "10y"))
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
	p, _, err := Root(view, m.Key.Name)
	switch {
	case err != nil:
		cond.Status, cond.Reason, cond.Message = "False", "NotFound", err.Error()
	case !MaySign(p.Cert):
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
