package global

import (
	"context"
	"errors"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/identity/ca"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// signIntermediate signs a zone's intermediate for a mesh; csr is DER. The root's private key stays in
// this process unless the mesh's provided CA may not sign intermediates: then the zone gets the pair.
// Errors are gRPC status errors: Unavailable while there is no root yet, FailedPrecondition if the request
// cannot be signed.
func (g *Global) signIntermediate(ctx context.Context, zone, meshName string,
	csr []byte) (*kdsv1.IssueIntermediateResponse, error) {
	select {
	case <-g.Replica().Ready():
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}

	signed, err := ca.Sign(g.Replica().View(), meshName, csr)
	switch {
	case errors.Is(err, ca.ErrNoAuthority):
		return nil, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	g.Log().Info("signed the intermediate certificate of a zone",
		zap.String("zone", zone),
		zap.String("mesh", meshName))
	return &kdsv1.IssueIntermediateResponse{
		Chain:       string(signed.Chain),
		Root:        string(signed.Root),
		ProvidedKey: string(signed.ProvidedKey),
	}, nil
}
