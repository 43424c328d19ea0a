package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
)

const (
	titleTokenRequest = "Invalid request"
	titleNoKey        = "Signing Key not found"
)

// issued wraps one issuing: rights first, then the request, and a line of the audit log whatever comes of it.
func (a *API) issued(ctx context.Context, what string, fields []zap.Field,
	issue func() (string, error)) (token string, err error) {
	caller, err := a.authorize(ctx, verbIssue, nil)
	defer func() { a.auditIssue(caller, what, fields, err) }()
	if err != nil {
		return "", err
	}
	if a.conf.Tokens == nil {
		return "", problem(http.StatusNotFound, titleNoKey, "this control plane issues no tokens")
	}
	token, err = issue()
	var bad *mesh.ValidationError
	switch {
	case errors.As(err, &bad):
		return "", invalid(titleTokenRequest, bad.Violations)
	case errors.Is(err, tokens.ErrNoKey):
		hint := "there is no mesh of that name"
		switch {
		case what == "zone" && a.conf.Federated:
			hint = "zone tokens are issued at the global control plane"
		case what != "dataplane":
			hint = "the control plane has no signing key: store one as a GlobalSecret"
		}
		if err.Error() != tokens.ErrNoKey.Error() {
			hint = err.Error()
		}
		return "", problem(http.StatusNotFound, titleNoKey, "%s", hint)
	}
	return token, err
}

// auditIssue writes the line of an issuing, done or refused.
func (a *API) auditIssue(c Caller, what string, fields []zap.Field, err error) {
	fields = append([]zap.Field{zap.String("user", c.Name), zap.Strings("groups", c.Groups),
		zap.String("verb", "issue"),
		zap.String("token", what)}, fields...)
	if err != nil {
		a.log.Warn("audit: refused", append(fields, zap.String("reason", err.Error()))...)
		return
	}
	a.log.Info("audit", fields...)
}

func orDefault(d *time.Duration) time.Duration {
	if d == nil {
		return tokens.DefaultValidity
	}
	return *d
}

func (a *API) issueDataplane(ctx context.Context, c tokens.DataplaneClaims,
	validFor *time.Duration) (string, error) {
	return a.issued(ctx, "dataplane",
		[]zap.Field{zap.String("mesh", c.Mesh), zap.String("name", c.Name),
			zap.String("workload", c.Workload)},
		func() (string, error) { return a.conf.Tokens.IssueDataplane(ctx, c, orDefault(validFor)) })
}

func (a *API) issueZone(ctx context.Context, c tokens.ZoneClaims, validFor *time.Duration) (string, error) {
	return a.issued(ctx, "zone", []zap.Field{zap.String("zone", c.Zone), zap.Strings("scope", c.Scope)},
		func() (string, error) { return a.conf.Tokens.IssueZone(ctx, c, orDefault(validFor)) })
}

func (a *API) issueUser(ctx context.Context, c tokens.UserClaims, validFor *time.Duration) (string, error) {
	return a.issued(ctx, "user", []zap.Field{zap.String("name", c.Name), zap.Strings("forGroups", c.Groups)},
		func() (string, error) {
			var d time.Duration // a user token without an end given is refused
			if validFor != nil {
				d = *validFor
			}
			return a.conf.Tokens.IssueUser(ctx, c, d)
		})
}
