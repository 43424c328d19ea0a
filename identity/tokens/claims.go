package tokens

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Code classes a [*TokenError].
type Code string

// Codes.
const (
	Malformed   Code = "Malformed"
	Expired     Code = "Expired"
	NotYetValid Code = "NotYetValid"
	// UnknownKey: signed by a key that this control plane does not have; of another control plane,
	// or rotated away.
	UnknownKey Code = "UnknownKey"
	Revoked    Code = "Revoked"
	// WrongType: a token of another kind than expected, such as a zone token for a dataplane.
	WrongType Code = "WrongType"
	// Mismatch: the token is valid, but bound to another proxy.
	Mismatch Code = "Mismatch"
)

// TokenError says why a token is not accepted and what to do.
type TokenError struct {
	Code   Code
	Reason string
}

func (e *TokenError) Error() string { return e.Reason }

func refuse(code Code, reason string, args ...any) *TokenError {
	return &TokenError{Code: code, Reason: fmt.Sprintf(reason, args...)}
}

// DataplaneClaims are what a dataplane token is bound to; empty fields bind nothing.
type DataplaneClaims struct {
	// ID is the claim jti, set by issuing.
	ID   string
	Mesh string
	Name string
	Tags map[string][]string
	// Type is "dataplane", "ingress", "egress" or empty.
	Type     string
	Workload string
}

// ZoneClaims are what a zone token is bound to.
type ZoneClaims struct {
	ID string
	// Zone is empty for any zone.
	Zone string
	// Scope holds "cp", "ingress", "egress".
	Scope []string
}

// UserClaims say who a user is.
type UserClaims struct {
	ID     string
	Name   string
	Groups []string
}

// Allows says whether a proxy may join with this token; the error is a [*TokenError] of code
// Mismatch or WrongType. proxyType is "dataplane" (or empty), "ingress" or "egress".
func (c DataplaneClaims) Allows(dp *mesh.Resource, proxyType string) error {
	if proxyType == "" {
		proxyType = "dataplane"
	}
	if dp.Key.Kind != mesh.KindDataplane {
		return refuse(WrongType,
			"this is a dataplane token, but a %s joins with a zone token of scope %s: %s",
			dp.Key.Kind, proxyType, hint.ZoneToken("ZONE", proxyType))
	}
	if c.Type != "" && c.Type != proxyType {
		return refuse(Mismatch, "the token is for proxies of type %s, this one is of type %s", c.Type,
			proxyType)
	}
	if c.Mesh != "" && c.Mesh != dp.Key.Mesh {
		return refuse(Mismatch, "the token is for mesh %q, this dataplane is of mesh %q", c.Mesh, dp.Key.Mesh)
	}
	if c.Name != "" && c.Name != dp.Key.Name {
		return refuse(Mismatch, "the token is for dataplane %q, this one is named %q", c.Name, dp.Key.Name)
	}
	if c.Workload != "" && c.Workload != dp.Labels[mesh.LabelWorkload] {
		return refuse(Mismatch, "the token is for workload %q, this dataplane's label %s is %q", c.Workload,
			mesh.LabelWorkload,
			dp.Labels[mesh.LabelWorkload])
	}
	has := tagValues(mesh.Spec[*meshv1.Dataplane](dp))
	for _, tag := range slices.Sorted(maps.Keys(c.Tags)) {
		values, ok := has[tag]
		if !ok {
			return refuse(Mismatch, "the token demands tag %s, which this dataplane has not", tag)
		}
		for _, v := range slices.Sorted(maps.Keys(values)) {
			if !slices.Contains(c.Tags[tag], v) {
				return refuse(Mismatch, "the token does not allow tag %s with value %q (it allows %s)", tag,
					v, strings.Join(c.Tags[tag], ", "))
			}
		}
	}
	return nil
}

func tagValues(dp *meshv1.Dataplane) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	add := func(tags map[string]string) {
		for k, v := range tags {
			if out[k] == nil {
				out[k] = map[string]bool{}
			}
			out[k][v] = true
		}
	}
	for _, in := range dp.GetNetworking().GetInbound() {
		add(in.GetTags())
	}
	add(dp.GetNetworking().GetGateway().GetTags())
	return out
}

// Allows says whether the token speaks for the zone with the scope; the error is a [*TokenError] of
// code Mismatch.
func (c ZoneClaims) Allows(zone, scope string) error {
	if c.Zone != "" && c.Zone != zone {
		return refuse(Mismatch, "the token is for zone %q, not for %q", c.Zone, zone)
	}
	if !slices.Contains(c.Scope, scope) {
		return refuse(Mismatch,
			"the token's scope is %s, %s is needed: %s",
			strings.Join(c.Scope, ", "), scope, hint.ZoneToken(zone, scope))
	}
	return nil
}
