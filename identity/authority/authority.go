// Package authority is the mesh certificate authority as the zones see it: global keeps the roots
// and signs the zones' intermediates.
//
// The roots themselves, and what else comes with a mesh, are made by internal/meshca, which a
// standalone zone shares. Here is what only a global with zones does: it checks that a request is
// of the mesh it names and signs it for 30 days. The private key of a root never leaves this
// process; the one exception is a provided CA that may not sign intermediates, whose pair the zone
// must have.
package authority

import (
	"context"
	"errors"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/identity/ca"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Config of a Signer. Replica is required.
type Config struct {
	Replica *replica.Replica
	// Logger may be nil.
	Logger *zap.Logger
}

// Signer signs zones' intermediates.
type Signer struct {
	cfg Config
	log *zap.Logger
}

// New makes a Signer.
func New(cfg Config) *Signer {
	s := &Signer{cfg: cfg, log: cfg.Logger}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	return s
}

// Sign signs the intermediate of a zone for a mesh; csr is DER. Errors are gRPC status errors:
// Unavailable while the root is not here yet, FailedPrecondition if the request cannot be signed.
func (s *Signer) Sign(ctx context.Context, zone, meshName string,
	csr []byte) (*kdsv1.IssueIntermediateResponse, error) {
	select {
	case <-s.cfg.Replica.Ready():
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	signed, err := ca.Sign(s.cfg.Replica.View(), meshName, csr)
	switch {
	case errors.Is(err, ca.ErrNoAuthority):
		return nil, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	s.log.Info("signed a zone's intermediate authority", zap.String("zone", zone),
		zap.String("mesh", meshName))
	return &kdsv1.IssueIntermediateResponse{
		Chain:       string(signed.Chain),
		Root:        string(signed.Root),
		ProvidedKey: string(signed.ProvidedKey),
	}, nil
}
