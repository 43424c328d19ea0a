package api

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
)

// Caller is who asks.
type Caller struct {
	Name   string
	Groups []string
}

// String is user/group,group.
func (c Caller) String() string { return c.Name + "/" + strings.Join(c.Groups, ",") }

func (c Caller) admin() bool {
	return c.Name == tokens.AdminUser || slices.Contains(c.Groups, tokens.AdminGroup)
}

func (c Caller) anonymous() bool { return c.Name == tokens.AnonymousUser }

var (
	adminCaller = Caller{
		Name:   tokens.AdminUser,
		Groups: []string{tokens.AdminGroup, tokens.AuthenticatedGroup},
	}
	anonymousCaller = Caller{Name: tokens.AnonymousUser, Groups: []string{tokens.UnauthenticatedGroup}}
)

// identity is what authentication found; err is a bad token, which the edge reports in its own form.
type identity struct {
	caller Caller
	err    error
}

type identityKey struct{}

func callerOf(ctx context.Context) (Caller, error) {
	id, ok := ctx.Value(identityKey{}).(identity)
	if !ok {
		return anonymousCaller, nil
	}
	return id.caller, id.err
}

// identify says who sent r (rest-api 5.1).
func (a *API) identify(r *http.Request) identity {
	if a.conf.LocalhostIsAdmin && direct(r) {
		return identity{caller: adminCaller}
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return identity{caller: anonymousCaller}
	}
	if a.conf.Tokens == nil {
		return identity{
			caller: anonymousCaller,
			err: &tokens.TokenError{
				Code:   tokens.UnknownKey,
				Reason: "this control plane accepts no tokens",
			},
		}
	}
	c, err := a.conf.Tokens.VerifyUser(strings.TrimSpace(token))
	if err != nil {
		return identity{caller: anonymousCaller, err: err}
	}
	caller := Caller{Name: c.Name, Groups: slices.Clone(c.Groups)}
	if !slices.Contains(caller.Groups, tokens.AuthenticatedGroup) {
		caller.Groups = append(caller.Groups, tokens.AuthenticatedGroup)
	}
	if caller.anonymous() { // a name is not a right, and this one would take rights away in silence
		return identity{
			caller: anonymousCaller,
			err: &tokens.TokenError{
				Code:   tokens.Mismatch,
				Reason: "the token is for the reserved user " + tokens.AnonymousUser,
			},
		}
	}
	return identity{caller: caller}
}

// direct says that r came from this machine, by no proxy and by no page of another site.
func direct(r *http.Request) bool {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !remote.Addr().Unmap().IsLoopback() || !loopbackHost(r.Host) {
		return false
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
		if len(r.Header.Values(h)) > 0 {
			return false
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return false
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || u.Host != r.Host {
			return false
		}
	}
	return true
}

func loopbackHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// verb is what a caller wants to do.
type verb string

const (
	verbRead   verb = "read"
	verbWrite  verb = "write"
	verbDelete verb = "delete"
	verbIssue  verb = "issue"
)

// authorize decides everything about rights: kind is nil for what is no resource (status, tokens).
// The error is a [*Problem]: 401 for a bad token, 403 else.
func (a *API) authorize(ctx context.Context, v verb, kind *mesh.KindInfo) (Caller, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return c, err
	}
	what := "the control plane's state"
	if kind != nil {
		what = string(kind.Kind)
	}
	switch {
	case c.admin():
		return c, nil
	case c.anonymous():
		p := problem(http.StatusForbidden, "Access Denied",
			"user %q may not %s %s: send a user token in the header "+
				"'Authorization: Bearer TOKEN', or call from the control plane's own machine (an "+
				"administrator "+
				"issues tokens with "+
				"'meridian token user')", c, v, what)
		return c, p
	case v == verbRead && (kind == nil || !kind.Secret()):
		return c, nil
	case v == verbIssue:
		what = "tokens"
	}
	return c, problem(http.StatusForbidden, "Access Denied", "user %q may not %s %s: this needs group %s", c,
		v, what, tokens.AdminGroup)
}
