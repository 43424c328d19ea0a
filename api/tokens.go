package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// issuer issues tokens.
type issuer struct {
	*base
	audit *audit
}

// What tokens are for, as the audit log names it.
const (
	tokenDataplane = "dataplane"
	tokenZone      = "zone"
	tokenUser      = "user"
)

// operations are the RPCs that issue.
var operations = map[string]string{
	tokenDataplane: adminv1.TokenService_IssueDataplaneToken_FullMethodName,
	tokenZone:      adminv1.TokenService_IssueZoneToken_FullMethodName,
	tokenUser:      adminv1.TokenService_IssueUserToken_FullMethodName,
}

// MayIssue says whether ctx's caller may issue tokens of a kind ("dataplane", "zone" or "user"); a
// denial is a line of the audit log. It is for what should not be read from a caller who may not.
func (i *issuer) MayIssue(ctx context.Context, what string) error {
	caller, err := authz.Authorize(ctx, operations[what], nil)
	if err != nil {
		i.audit.issue(caller, what, nil, err)
	}
	return err
}

// issue wraps one issuing: rights first, then the request, and a line of the audit log either way.
// meshName is that of the proxy, if it is for one.
func (i *issuer) issue(ctx context.Context, what, meshName string, fields []zap.Field,
	issue func() (string, error)) (token string, err error) {
	caller, err := authz.Authorize(ctx, operations[what], nil)
	defer func() { i.audit.issue(caller, what, fields, err) }()
	if err != nil {
		return "", err
	}
	if i.cfg.Tokens == nil {
		return "", problem.New(http.StatusNotFound, problem.TitleNoKey, "this control plane issues no tokens")
	}

	token, err = issue()
	var invalid *mesh.ValidationError
	var unreadable *tokens.UnreadableKeysError
	switch {
	case errors.As(err, &invalid):
		return "", problem.Invalid(problem.TitleTokenRequest, invalid.Violations...)
	case errors.As(err, &unreadable):
		return "", problem.New(http.StatusNotFound, problem.TitleNoKey, "%s", unreadable)
	case errors.Is(err, tokens.ErrNoKey):
		return "", problem.New(
			http.StatusNotFound,
			problem.TitleNoKey,
			"%s",
			i.noKeyHint(ctx, what, meshName),
		)
	}
	return token, err
}

// noKeyHint says why there is no key to sign with.
func (i *issuer) noKeyHint(ctx context.Context, what string, meshName string) string {
	view, err := i.view(ctx, 0)
	_, there := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: meshName})
	switch {
	case what == tokenDataplane && err == nil && there:
		return fmt.Sprintf(
			"mesh %s has no key to sign with: apply a Secret %s1 of the mesh with an RSA key as data, such "+
				"as `openssl genrsa 2048 | base64 -w0` makes",
			meshName,
			secrets.DataplaneSigningKey+meshName+"-",
		)
	case what == tokenZone && i.cfg.Federated:
		return "zone tokens are issued at the global control plane"
	case what != tokenDataplane:
		return "the control plane has no signing key: store one as a GlobalSecret"
	}
	return "there is no mesh of that name"
}

func orDefault(d *time.Duration) time.Duration {
	if d == nil {
		return tokens.DefaultValidity
	}
	return *d
}

// IssueDataplane issues a token for a proxy; validFor nil is the default.
func (i *issuer) IssueDataplane(ctx context.Context, c tokens.DataplaneClaims,
	validFor *time.Duration) (string, error) {
	fields := []zap.Field{
		zap.String("mesh", c.Mesh),
		zap.String("name", c.Name),
		zap.String("workload", c.Workload),
	}
	return i.issue(ctx, tokenDataplane, c.Mesh, fields,
		func() (string, error) { return i.cfg.Tokens.IssueDataplane(ctx, c, orDefault(validFor)) })
}

// IssueZone issues a token for a zone; validFor nil is the default.
func (i *issuer) IssueZone(ctx context.Context, c tokens.ZoneClaims,
	validFor *time.Duration) (string, error) {
	fields := []zap.Field{zap.String("zone", c.Zone), zap.Strings("scope", c.Scope)}
	return i.issue(ctx, tokenZone, "", fields,
		func() (string, error) { return i.cfg.Tokens.IssueZone(ctx, c, orDefault(validFor)) })
}

// IssueUser issues a token for a user; without validFor it is rejected: such a token must end.
func (i *issuer) IssueUser(ctx context.Context, c tokens.UserClaims,
	validFor *time.Duration) (string, error) {
	fields := []zap.Field{zap.String("name", c.Name), zap.Strings("forGroups", c.Groups)}
	return i.issue(ctx, tokenUser, "", fields, func() (string, error) {
		var d time.Duration
		if validFor != nil {
			d = *validFor
		}
		return i.cfg.Tokens.IssueUser(ctx, c, d)
	})
}
