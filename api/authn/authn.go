// Package authn finds out who calls the management API: by a token, or by a direct connection from
// this machine. What a caller may do is package authz's.
//
// # Rules
//
// A call with an Authorization header is what its Bearer token says, wherever it comes from. Without one,
// a call over the UNIX socket by root or by the process's own user is the administrator's. A direct call
// from loopback is that only if it is switched on: it came without TLS, the remote address and the Host
// header are loopback, no proxy header is there, and no page of another site sent it. All others are
// anonymous. A token that does not verify is an [Identity] with an error, which REST ignores where
// anonymous callers may.
//
// # Concurrency
//
// An [Authenticator] is safe for concurrent use.
package authn

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/identity/tokens"
)

// Caller is who calls.
type Caller struct {
	Name   string
	Groups []string
}

// String is user/group,group.
func (c Caller) String() string { return c.Name + "/" + strings.Join(c.Groups, ",") }

// Admin says that the caller may do everything.
func (c Caller) Admin() bool {
	return c.Name == tokens.AdminUser || slices.Contains(c.Groups, tokens.AdminGroup)
}

// Anonymous says that the caller did not authenticate.
func (c Caller) Anonymous() bool { return c.Name == tokens.AnonymousUser }

var (
	admin = Caller{
		Name:   tokens.AdminUser,
		Groups: []string{tokens.AdminGroup, tokens.AuthenticatedGroup},
	}
	anonymous = Caller{Name: tokens.AnonymousUser, Groups: []string{tokens.UnauthenticatedGroup}}
)

// ControlPlane is the caller of what comes through the tunnel between control planes.
func ControlPlane() Caller {
	return Caller{Name: tokens.ControlPlaneUser, Groups: []string{tokens.AdminGroup}}
}

// Identity is what authentication found.
type Identity struct {
	Caller Caller
	// Address that the request came from; empty if it came from within.
	Address string
	// Err is a [*tokens.TokenError] for a bad token; the caller is anonymous then.
	Err error
}

type identityKey struct{}

// With returns a context that carries an identity.
func With(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

type peerKey struct{}

// WithPeer is for connections over a UNIX socket: it returns a context that carries the user at the other
// end, as the system says.
func WithPeer(ctx context.Context, uid uint32) context.Context {
	return context.WithValue(ctx, peerKey{}, uid)
}

// From is the caller of ctx's request, and why its token is bad if it is. Without an identity the
// caller is anonymous.
func From(ctx context.Context) (Caller, error) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	if !ok {
		return anonymous, nil
	}
	return id.Caller, id.Err
}

// Address is where ctx's request came from; empty if it came from within.
func Address(ctx context.Context) string {
	id, _ := ctx.Value(identityKey{}).(Identity)
	return id.Address
}

// Origin is the address that r came from; of the socket, the user at its other end.
func Origin(r *http.Request) string {
	if uid, ok := r.Context().Value(peerKey{}).(uint32); ok {
		return fmt.Sprintf("the socket, user %d", uid)
	}
	return r.RemoteAddr
}

// Authenticator identifies callers.
type Authenticator struct {
	// Tokens verifies; nil accepts no token.
	Tokens *tokens.Tokens
	// LocalhostIsAdmin makes direct calls from loopback the administrator's: those without TLS and
	// without an Authorization header.
	LocalhostIsAdmin bool
}

// Identify says who sent r.
func (a Authenticator) Identify(r *http.Request) Identity {
	// A caller with a credential means to be its user: a bad one must not become the administrator.
	shown := len(r.Header.Values("Authorization")) > 0
	if uid, ok := r.Context().Value(peerKey{}).(uint32); ok && !shown {
		if uid == 0 || uid == uint32(os.Getuid()) {
			return Identity{Caller: admin}
		}
		return Identity{Caller: anonymous}
	}
	if a.LocalhostIsAdmin && !shown && direct(r) {
		return Identity{Caller: admin}
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return Identity{Caller: anonymous}
	}
	if a.Tokens == nil {
		return bad(tokens.UnknownKey, "this control plane accepts no tokens")
	}
	claims, err := a.Tokens.VerifyUser(strings.TrimSpace(token))
	if err != nil {
		return Identity{Caller: anonymous, Err: err}
	}

	c := Caller{Name: claims.Name, Groups: slices.Clone(claims.Groups)}
	if !slices.Contains(c.Groups, tokens.AuthenticatedGroup) {
		c.Groups = append(c.Groups, tokens.AuthenticatedGroup)
	}
	if c.Anonymous() { // the reserved name would silently lose the rights of its groups
		return bad(tokens.Mismatch, "the token is for the reserved user "+tokens.AnonymousUser)
	}
	return Identity{Caller: c}
}

func bad(code tokens.Code, reason string) Identity {
	return Identity{Caller: anonymous, Err: &tokens.TokenError{Code: code, Reason: reason}}
}

// direct says that r came from this machine without TLS, by no proxy and by no page of another site.
// The TLS port is what forwarders are pointed at, and one on this machine makes any client's call local.
func direct(r *http.Request) bool {
	if r.TLS != nil {
		return false
	}
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
