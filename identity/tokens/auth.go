// Package tokens issues and verifies the tokens of dataplanes, zones and users.
//
// # Model
//
// A token is a JWT, RS256 with a 2048-bit key, header kid = the key's serial, with Kuma's claims
// (capitalised names) and "ca", the SHA-256 pins of the certificate authorities that its holder
// accepts control planes by. Keys are Secrets and GlobalSecrets in the store, so they are
// replicated, sealed and rotated like any resource:
//
//	dataplane-token-signing-key-<mesh>-<n>   Secret of the mesh, goes to every zone
//	zone-token-signing-key-<n>               GlobalSecret, stays at global
//	zone-token-signing-public-key-<n>        GlobalSecret, its public half, goes to every zone
//	user-token-signing-key-<n>               GlobalSecret, stays where it is
//	admin-user-token                         GlobalSecret, the first administrator's token as text
//
// The highest serial signs; every key that is there verifies, so deleting a key ends its tokens.
// Serials are compared as numbers: -0002 is -2. A name without a number is serial 0.
//
// Revocation lists are Secrets of token ids (claim jti) separated by commas, spaces or new lines:
// dataplane-token-revocations-<mesh> (Secret of the mesh, or GlobalSecret), zone-token-revocations,
// user-token-revocations.
//
// # Reading
//
// Verification reads the view alone and never waits: parsed keys and lists are kept for as long as
// the secrets have the same revisions. Issuing reads the view and, for a key that was made a moment
// ago, the store.
//
// # Failure
//
// A token that is not accepted is a [*TokenError] with a class and a reason that says what to do;
// reasons hold no part of a token. [ErrNoKey] says that there is nothing to sign with, which for a
// dataplane token mostly means that there is no such mesh. [*mesh.ValidationError] says what of a
// request to change.
//
// # Concurrency
//
// [Tokens] is safe for concurrent use and has no goroutine.
//
// No example: issuing and verifying need a running store and a replica of it.
package tokens

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Names and groups of users.
const (
	AdminUser            = "mesh-system:admin"
	AdminGroup           = "mesh-system:admin"
	AnonymousUser        = "mesh-system:anonymous"
	UnauthenticatedGroup = "mesh-system:unauthenticated"
	AuthenticatedGroup   = "mesh-system:authenticated"
	// ControlPlaneUser is who a control plane acts as on its own behalf.
	ControlPlaneUser = "mesh-system:control-plane"
)

// Scopes of zone tokens.
const (
	ScopeControlPlane = "cp"
	ScopeIngress      = "ingress"
	ScopeEgress       = "egress"
)

// Names of secrets.
const (
	dataplaneKeyPrefix  = secrets.DataplaneSigningKey // and the mesh
	zoneKeyPrefix       = secrets.ZoneSigningKey
	zonePublicKeyPrefix = secrets.ZonePublicKey
	userKeyPrefix       = secrets.UserSigningKey
	adminTokenName      = secrets.AdminToken

	dataplaneRevocations = secrets.DataplaneRevocations // and the mesh
	zoneRevocations      = secrets.ZoneRevocations
	userRevocations      = secrets.UserRevocations
)

// DefaultValidity of dataplane and zone tokens and of the first administrator's.
const DefaultValidity = 10 * 365 * 24 * time.Hour

const (
	keyBits = 2048
	// skew is how long before now a token begins to be valid.
	skew = 5 * time.Second
)

// ErrNoKey says that there is no signing key.
var ErrNoKey = errors.New("signing key not found")

// UnreadableKeysError says that secrets for a signing key are there, and that none of them holds
// one. It is an [ErrNoKey].
type UnreadableKeysError struct {
	// Reasons, one per secret.
	Reasons []error
}

// Error names every secret and what to do.
func (e *UnreadableKeysError) Error() string {
	return fmt.Sprintf("%v: %v; store a 2048-bit RSA key as PEM there, or delete the secret", ErrNoKey,
		errors.Join(e.Reasons...))
}

// Is makes it an [ErrNoKey].
func (e *UnreadableKeysError) Is(target error) bool { return target == ErrNoKey }

// Config of [Tokens].
type Config struct {
	Store store.Store
	// View is the latest state that verification reads.
	View func() replica.View
	// Zone is the origin of the secrets made here: empty at global, the zone's name at a zone.
	Zone string
	// Pins go into every token issued here; nil for none.
	Pins func() []string
	// Now is the clock; nil for the real one.
	Now func() time.Time
}

// Tokens issues and verifies; see the package comment.
type Tokens struct {
	conf Config

	mu    sync.Mutex
	rings map[ringID]*ring
}

// New makes Tokens; it reads nothing yet.
func New(conf Config) *Tokens {
	if conf.Now == nil {
		conf.Now = time.Now
	}
	if conf.Pins == nil {
		conf.Pins = func() []string { return nil }
	}
	return &Tokens{conf: conf, rings: map[ringID]*ring{}}
}

// EnsureKeys makes what is missing of the zone and user signing keys and the administrator's token.
// It is for global and for standalone zones, at start; replicas may run it at once.
func (t *Tokens) EnsureKeys(ctx context.Context) error {
	if err := t.ensureKey(ctx, mesh.KindGlobalSecret, "", zoneKeyPrefix); err != nil {
		return err
	}
	return t.EnsureUserKey(ctx)
}

// EnsureUserKey makes what is missing of the user signing key and the administrator's token; a zone
// with a global needs only these, for its own API.
func (t *Tokens) EnsureUserKey(ctx context.Context) error {
	if err := t.ensureKey(ctx, mesh.KindGlobalSecret, "", userKeyPrefix); err != nil {
		return err
	}
	key := mesh.Key{Kind: mesh.KindGlobalSecret, Zone: t.conf.Zone, Name: adminTokenName}
	if _, err := t.conf.Store.Get(ctx, key); err == nil {
		return nil
	} else if !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("read %s: %w", key, err)
	}
	view, err := t.latest(ctx)
	if err != nil {
		return err
	}
	token, err := t.issueUser(view, UserClaims{
		Name:   AdminUser,
		Groups: []string{AdminGroup},
	}, DefaultValidity)
	if err != nil {
		return err
	}
	return t.create(ctx, secret(key, []byte(token)), store.Audit{Entry: store.AuditEntry{
		Who:    author,
		Action: "issue",
		Kind:   "UserToken",
		Name:   AdminUser,
		What:   "the first administrator's",
	}})
}

// author is this package as a writer.
const author = "system:auth"

// AdminToken is the first administrator's token, or [store.ErrNotFound].
func (t *Tokens) AdminToken(ctx context.Context) (string, error) {
	r, err := t.conf.Store.Get(ctx, mesh.Key{
		Kind: mesh.KindGlobalSecret,
		Zone: t.conf.Zone,
		Name: adminTokenName,
	})
	if err != nil {
		return "", err
	}
	return string(secretData(r)), nil
}

// EnsureMeshKey makes a mesh's dataplane signing key if it has none.
func (t *Tokens) EnsureMeshKey(ctx context.Context, meshName string) error {
	return t.ensureKey(ctx, mesh.KindSecret, meshName, dataplaneKeyPrefix+meshName)
}

// NewMeshKey is a fresh first signing key of a mesh, to be stored in the transaction that creates the mesh.
func (t *Tokens) NewMeshKey(meshName string) (*mesh.Resource, error) {
	return t.newKey(mesh.KindSecret, meshName, dataplaneKeyPrefix+meshName)
}

// latest is the view if it is at the store's latest revision, else a snapshot.
func (t *Tokens) latest(ctx context.Context) (replica.View, error) {
	rev, err := t.conf.Store.Revision(ctx)
	if err != nil {
		return replica.View{}, fmt.Errorf("read revision: %w", err)
	}
	if v := t.conf.View(); v.Revision() >= rev {
		return v, nil
	}
	snap, err := t.conf.Store.Snapshot(ctx)
	if err != nil {
		return replica.View{}, fmt.Errorf("read signing keys: %w", err)
	}
	return replica.NewView(snap.Revision, snap.Resources...), nil
}

func (t *Tokens) ensureKey(ctx context.Context, kind mesh.Kind, meshName, prefix string) error {
	view, err := t.latest(ctx)
	if err != nil {
		return err
	}
	if len(keySecrets(view, ringID{kind: kind, mesh: meshName, prefix: prefix})) > 0 {
		return nil
	}
	r, err := t.newKey(kind, meshName, prefix)
	if err != nil {
		return err
	}
	return t.create(ctx, r)
}

func (t *Tokens) newKey(kind mesh.Kind, meshName, prefix string) (*mesh.Resource, error) {
	k, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})
	return secret(mesh.Key{
		Kind: kind,
		Mesh: meshName,
		Zone: t.conf.Zone,
		Name: prefix + "-1",
	}, data), nil
}

// create stores r, and more with it, unless there is one; another replica may have been faster.
func (t *Tokens) create(ctx context.Context, r *mesh.Resource, more ...store.Op) error {
	r.Labels = t.labels(r.Key)
	_, err := t.conf.Store.Commit(ctx, store.Txn{
		Author: author,
		Checks: []store.Check{store.KeyAt{Key: r.Key}},
		Ops:    append([]store.Op{store.Put{Resource: r}}, more...),
	})
	var conflict *store.ConflictError
	if err != nil && !errors.As(err, &conflict) {
		return fmt.Errorf("store %s: %w", r.Key, err)
	}
	return nil
}

func (t *Tokens) labels(k mesh.Key) map[string]string {
	l := map[string]string{}
	if k.Mesh != "" {
		l[mesh.LabelMesh] = k.Mesh
	}
	if k.Zone == "" {
		l[mesh.LabelOrigin] = mesh.OriginGlobal
	} else {
		l[mesh.LabelOrigin], l[mesh.LabelZone], l[mesh.LabelEnv] = mesh.OriginZone, k.Zone, "universal"
	}
	return l
}

func secret(k mesh.Key, data []byte) *mesh.Resource {
	r := &mesh.Resource{Key: k}
	if k.Kind == mesh.KindSecret {
		r.Spec = &meshv1.Secret{Data: data}
	} else {
		r.Spec = &meshv1.GlobalSecret{Data: data}
	}
	return r
}

func secretData(r *mesh.Resource) []byte {
	switch s := r.Spec.(type) {
	case *meshv1.Secret:
		return s.GetData()
	case *meshv1.GlobalSecret:
		return s.GetData()
	}
	return nil
}
