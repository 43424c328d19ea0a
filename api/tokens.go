package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store"
)

// issuer issues tokens.
type issuer struct{ *base }

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
	_, err := authz.Authorize(ctx, operations[what], nil)
	if err != nil {
		i.audit.refuse(ctx, tokenEntry(ctx, what), err)
	}
	return err
}

// issue wraps one issuing: rights first, then the request, and a line of the audit log either way.
// meshName is that of the proxy, if it is for one.
func (i *issuer) issue(ctx context.Context, what, meshName string, row store.AuditEntry,
	issue func() (string, error)) (token string, err error) {
	_, err = authz.Authorize(ctx, operations[what], nil)
	defer func() {
		if err != nil {
			i.audit.refuse(ctx, row, err)
		}
	}()
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
	case err != nil:
		return "", err
	}
	// No token leaves without its row.
	if err := i.audit.done(ctx, row); err != nil {
		return "", err
	}
	return token, nil
}

// tokenKinds are the kinds of tokens as rows of the audit name them.
var tokenKinds = map[string]string{
	tokenDataplane: "DataplaneToken",
	tokenZone:      "ZoneToken",
	tokenUser:      "UserToken",
}

// tokenEntry begins a row about a token.
func tokenEntry(ctx context.Context, what string) store.AuditEntry {
	e := entry(ctx, actionIssue)
	e.Kind = tokenKinds[what]
	return e
}

// named is a word of a row; empty if there is no value.
func named(name, value string) string {
	if value == "" {
		return ""
	}
	return name + " " + value
}

// words are those of a row that are not empty.
func words(list ...string) string {
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" })
	return clip(strings.Join(list, ", "))
}

// validFor is what a row says of the validity that was asked for.
func validFor(d *time.Duration) string {
	if d == nil {
		return ""
	}
	return "valid for " + d.String()
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

// IssueDataplane issues a token for a proxy; d is its validity, nil the default.
func (i *issuer) IssueDataplane(ctx context.Context, c tokens.DataplaneClaims,
	d *time.Duration) (string, error) {
	row := tokenEntry(ctx, tokenDataplane)
	row.Mesh, row.Name = clip(c.Mesh), clip(c.Name)
	row.What = words(validFor(d), named("workload", c.Workload), named("type", c.Type))
	return i.issue(ctx, tokenDataplane, c.Mesh, row,
		func() (string, error) { return i.cfg.Tokens.IssueDataplane(ctx, c, orDefault(d)) })
}

// IssueZone issues a token for a zone; d is its validity, nil the default.
func (i *issuer) IssueZone(ctx context.Context, c tokens.ZoneClaims,
	d *time.Duration) (string, error) {
	row := tokenEntry(ctx, tokenZone)
	row.Zone, row.Name = clip(c.Zone), clip(c.Zone)
	row.What = words(validFor(d), named("scope", strings.Join(c.Scope, ",")))
	return i.issue(ctx, tokenZone, "", row,
		func() (string, error) { return i.cfg.Tokens.IssueZone(ctx, c, orDefault(d)) })
}

// IssueUser issues a token for a user; without a validity, d, it is rejected: such a token must end.
func (i *issuer) IssueUser(ctx context.Context, c tokens.UserClaims,
	d *time.Duration) (string, error) {
	row := tokenEntry(ctx, tokenUser)
	row.Name = clip(c.Name)
	row.What = words(validFor(d), named("groups", strings.Join(c.Groups, ",")))
	return i.issue(ctx, tokenUser, "", row, func() (string, error) {
		var valid time.Duration
		if d != nil {
			valid = *d
		}
		return i.cfg.Tokens.IssueUser(ctx, c, valid)
	})
}
