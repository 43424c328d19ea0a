package tokens

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store/replica"
)

// common are the claims of every token.
type common struct {
	CA []string `json:"ca,omitempty"`
	jwt.RegisteredClaims
}

type dataplaneJWT struct {
	Name     string              `json:"Name"`
	Mesh     string              `json:"Mesh"`
	Tags     map[string][]string `json:"Tags"`
	Type     string              `json:"Type"`
	Workload string              `json:"Workload"`
	common
}

type zoneJWT struct {
	Zone  string   `json:"Zone"`
	Scope []string `json:"Scope"`
	common
}

type userJWT struct {
	Name   string   `json:"Name"`
	Groups []string `json:"Groups"`
	common
}

// anyJWT is the union, for finding out what a token is before it is verified.
type anyJWT struct {
	Name     *string              `json:"Name"`
	Mesh     *string              `json:"Mesh"`
	Tags     *map[string][]string `json:"Tags"`
	Type     *string              `json:"Type"`
	Workload *string              `json:"Workload"`
	Zone     *string              `json:"Zone"`
	Scope    *[]string            `json:"Scope"`
	Groups   *[]string            `json:"Groups"`
	common
}

func (c *anyJWT) kind() string {
	switch {
	case c.Scope != nil:
		return "zone"
	case c.Mesh != nil:
		return "dataplane"
	case c.Name != nil:
		return "user"
	}
	return "unknown"
}

// IssueDataplane makes a dataplane token ([DefaultValidity] for callers without a wish). Errors:
// [*mesh.ValidationError], [ErrNoKey] (no such mesh, mostly), those of the store.
func (t *Tokens) IssueDataplane(ctx context.Context, c DataplaneClaims,
	validFor time.Duration) (string, error) {
	var bad mesh.ValidationError
	if c.Mesh == "" {
		bad.Add("mesh", "must be given")
	}
	checkName(&bad, "name", c.Name, 253)
	checkName(&bad, "workload", c.Workload, 63)
	switch c.Type {
	case "", "dataplane", "ingress", "egress":
	default:
		bad.Add("type", "is %q, must be dataplane, ingress, egress or empty", c.Type)
	}
	checkValidity(&bad, validFor)
	if err := bad.Err(); err != nil {
		return "", err
	}
	return t.issue(ctx, dataplaneRing(c.Mesh), func(base common) jwt.Claims {
		return dataplaneJWT{
			Name:     c.Name,
			Mesh:     c.Mesh,
			Tags:     c.Tags,
			Type:     c.Type,
			Workload: c.Workload,
			common:   base,
		}
	}, validFor)
}

// checkName refuses a name that no resource can have: a token for it would let nothing in.
func checkName(bad *mesh.ValidationError, field, name string, most int) {
	switch {
	case name == "":
	case len(name) > most:
		bad.Add(field, "must have at most %d characters, has %d", most, len(name))
	case !mesh.IsDNSName(name):
		bad.Add(
			field,
			"%q cannot be a name: lower-case letters, digits, \"-\" and \".\", beginning and ending with a "+
				"letter or digit",
			mesh.Clip(name),
		)
	}
}

// IssueZone makes a zone token; Scope must be given. Errors as IssueDataplane; [ErrNoKey] at a
// zone that has a global, which holds the key.
func (t *Tokens) IssueZone(ctx context.Context, c ZoneClaims, validFor time.Duration) (string, error) {
	var bad mesh.ValidationError
	checkName(&bad, "zone", c.Zone, 63)
	if len(c.Scope) == 0 {
		bad.Add("scope", "must be given: one or more of cp, ingress, egress")
	}
	for i, s := range c.Scope {
		switch s {
		case ScopeControlPlane, ScopeIngress, ScopeEgress:
		default:
			bad.Add("scope["+strconv.Itoa(i)+"]", "is %q, must be cp, ingress or egress", s)
		}
	}
	checkValidity(&bad, validFor)
	if err := bad.Err(); err != nil {
		return "", err
	}
	return t.issue(ctx, zoneRing(), func(base common) jwt.Claims {
		return zoneJWT{Zone: c.Zone, Scope: c.Scope, common: base}
	}, validFor)
}

// IssueUser makes a user token; Name must be given. Errors as IssueDataplane.
func (t *Tokens) IssueUser(ctx context.Context, c UserClaims, validFor time.Duration) (string, error) {
	var bad mesh.ValidationError
	if c.Name == "" {
		bad.Add("name", "must be given")
	}
	checkValidity(&bad, validFor)
	if err := bad.Err(); err != nil {
		return "", err
	}
	return t.issue(ctx, userRing(), func(base common) jwt.Claims {
		return userJWT{Name: c.Name, Groups: c.Groups, common: base}
	}, validFor)
}

func checkValidity(bad *mesh.ValidationError, validFor time.Duration) {
	if validFor <= 0 {
		bad.Add("validFor", "is %s, must be positive, such as 24h: the token would be expired at birth",
			validFor)
	}
}

func (t *Tokens) issue(ctx context.Context, id ringID, claims func(common) jwt.Claims,
	validFor time.Duration) (string, error) {
	token, err := t.sign(t.conf.View(), id, claims, validFor)
	if !errors.Is(err, ErrNoKey) {
		return token, err
	}
	// The key may be younger than the view.
	view, readErr := t.latest(ctx)
	if readErr != nil {
		return "", readErr
	}
	return t.sign(view, id, claims, validFor)
}

func (t *Tokens) issueUser(v replica.View, c UserClaims, validFor time.Duration) (string, error) {
	return t.sign(v, userRing(), func(base common) jwt.Claims {
		return userJWT{Name: c.Name, Groups: c.Groups, common: base}
	}, validFor)
}

func (t *Tokens) sign(v replica.View, id ringID, claims func(common) jwt.Claims,
	validFor time.Duration) (string, error) {
	serial, key, err := t.ring(v, id).signer()
	if err != nil {
		return "", err
	}
	jti, err := uuid.NewRandom()
	if err != nil {
		return "", err
	}
	now := t.conf.Now()
	base := common{
		CA: t.conf.Pins(),
		RegisteredClaims: jwt.RegisteredClaims{
			ID:        jti.String(),
			IssuedAt:  jwt.NewNumericDate(now.Add(-skew)),
			NotBefore: jwt.NewNumericDate(now.Add(-skew)),
			ExpiresAt: jwt.NewNumericDate(now.Add(validFor)),
		},
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims(base))
	token.Header["kid"] = strconv.Itoa(serial)
	return token.SignedString(key)
}

// VerifyDataplane checks a dataplane token against the keys of the mesh it names. The error is a
// [*TokenError].
func (t *Tokens) VerifyDataplane(token string) (DataplaneClaims, error) {
	c, err := t.verify(token, "dataplane")
	if err != nil {
		return DataplaneClaims{}, err
	}
	out := DataplaneClaims{
		ID:       c.ID,
		Mesh:     *c.Mesh,
		Name:     value(c.Name),
		Type:     value(c.Type),
		Workload: value(c.Workload),
	}
	if c.Tags != nil {
		out.Tags = *c.Tags
	}
	return out, nil
}

// VerifyZone checks a zone token. The error is a [*TokenError].
func (t *Tokens) VerifyZone(token string) (ZoneClaims, error) {
	c, err := t.verify(token, "zone")
	if err != nil {
		return ZoneClaims{}, err
	}
	return ZoneClaims{ID: c.ID, Zone: value(c.Zone), Scope: *c.Scope}, nil
}

// VerifyUser checks a user token. The error is a [*TokenError].
func (t *Tokens) VerifyUser(token string) (UserClaims, error) {
	c, err := t.verify(token, "user")
	if err != nil {
		return UserClaims{}, err
	}
	out := UserClaims{ID: c.ID, Name: value(c.Name)}
	if c.Groups != nil {
		out.Groups = *c.Groups
	}
	return out, nil
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// issueHint is how to get a new token of a kind.
func issueHint(kind string, c *anyJWT) string {
	switch kind {
	case "dataplane":
		return hint.DataplaneToken(value(c.Mesh), value(c.Name))
	case "zone":
		var scopes []string
		if c.Scope != nil {
			scopes = *c.Scope
		}
		return hint.ZoneToken(value(c.Zone), scopes...)
	}
	return hint.UserToken(value(c.Name))
}

func (t *Tokens) verify(token, want string) (*anyJWT, error) {
	// Times are checked below, for messages that say which; the signature comes first.
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Alg()}),
		jwt.WithoutClaimsValidation())
	peek := &anyJWT{}
	parsed, _, err := parser.ParseUnverified(token, peek)
	if err != nil {
		return nil, refuse(Malformed,
			"this is not a token (three base64 parts joined by dots): check that it was copied whole")
	}
	if got := peek.kind(); got != want {
		return nil, refuse(WrongType, "this is a %s token, a %s token is needed: %s", got, want,
			issueHint(want, &anyJWT{}))
	}
	kid, ok := parsed.Header["kid"].(string)
	if !ok {
		return nil, refuse(Malformed, "the token's header names no signing key (kid)")
	}
	var id ringID
	switch want {
	case "dataplane":
		if *peek.Mesh == "" {
			return nil, refuse(Malformed, "the token names no mesh: %s", issueHint(want, peek))
		}
		id = dataplaneRing(*peek.Mesh)
	case "zone":
		id = zoneRing()
	default:
		id = userRing()
	}
	keys := t.ring(t.conf.View(), id)
	set, ok := keys.verifiers(kid)
	if !ok {
		return nil, refuse(UnknownKey,
			"the token is signed by %s key %q, which this control plane does not know: it is foreign "+
				"(of another "+
				"control plane), or its key was removed; %s", want, kid, issueHint(want, peek))
	}
	c := &anyJWT{}
	_, err = parser.ParseWithClaims(token, c, func(*jwt.Token) (any, error) { return set, nil })
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid) && parsed.Method != jwt.SigningMethodRS256:
		return nil, refuse(Malformed, "the token is signed by method %v, it must be RS256",
			parsed.Header["alg"])
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return nil, refuse(UnknownKey,
			"the token is foreign: its signature is not of this control plane's %s key %q; %s", want, kid,
			issueHint(want, peek))
	case err != nil:
		return nil, refuse(Malformed, "the token cannot be read: check that it was copied whole")
	}
	now := t.conf.Now()
	switch {
	case c.ExpiresAt == nil:
		return nil, refuse(Malformed, "the token has no end (exp): %s", issueHint(want, c))
	case !now.Before(c.ExpiresAt.Time):
		return nil, refuse(Expired, "the token expired at %s: %s", c.ExpiresAt.UTC().Format(time.RFC3339),
			issueHint(want, c))
	case c.NotBefore != nil && now.Before(c.NotBefore.Time):
		return nil, refuse(NotYetValid,
			"the token is valid from %s on, here it is %s: check the clocks of both machines",
			c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case keys.revoked[c.ID]:
		return nil, refuse(Revoked, "the token was revoked: %s", issueHint(want, c))
	}
	return c, nil
}
