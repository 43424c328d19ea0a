package inspect

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// request is what a proxy sees of a request, as far as matches look at it.
type request struct {
	path    string
	query   url.Values
	method  string
	headers map[string]string // names in lower case
	// uris are those of the caller's certificate; empty if the connection is in clear.
	uris []string
	// sni is the server name of the connection.
	sni string
}

// fits evaluates a match as Envoy does: paths and values byte by byte, regular expressions over the
// whole value, names of headers in any case.
func (q request) fits(m ir.Match) bool {
	switch m.PathType {
	case ir.PathExact:
		if q.path != m.Path {
			return false
		}
	case ir.PathRegex:
		if !whole(m.Path, q.path) {
			return false
		}
	default:
		if !strings.HasPrefix(q.path, m.Path) {
			return false
		}
	}
	if m.Method != "" && m.Method != q.method {
		return false
	}
	for _, h := range m.Headers {
		value, there := q.headers[strings.ToLower(h.Name)]
		if !valueFits(h, value, there) {
			return false
		}
	}
	for _, p := range m.Query {
		if !valueFits(p, q.query.Get(p.Name), q.query.Has(p.Name)) {
			return false
		}
	}
	return q.callerFits(m.Callers)
}

func (q request) callerFits(all []ir.IdentityMatch) bool {
	return !slices.ContainsFunc(all, func(m ir.IdentityMatch) bool { return !q.identityFits(m) })
}

func (q request) identityFits(m ir.IdentityMatch) bool {
	if m.SNI != "" && m.SNI != q.sni {
		return false
	}
	return m.SpiffeID == "" || slices.ContainsFunc(q.uris, func(uri string) bool {
		return uri == m.SpiffeID || m.Prefix && policy.PrefixCovers(m.SpiffeID, uri)
	})
}

func (q request) principalFits(p ir.Principal) bool {
	return q.has(p.All) && !slices.ContainsFunc(p.Not, q.has)
}

// has says that the caller has every one of the URIs.
func (q request) has(all []ir.URIMatch) bool {
	return !slices.ContainsFunc(all, func(m ir.URIMatch) bool {
		return !slices.ContainsFunc(q.uris,
			func(uri string) bool { return uri == m.URI || m.Prefix && strings.HasPrefix(uri, m.URI) })
	})
}

// admitted evaluates a permission table; rule is the KRI of the policy that decided, empty if none did.
func (q request) admitted(p *ir.RBAC) (ok bool, rule string) {
	if p == nil {
		return true, ""
	}
	if !p.ByRules {
		return slices.ContainsFunc(p.Principals, q.principalFits), ""
	}
	// Denials come first in the list.
	for _, r := range p.Rules {
		if q.identityFits(r.Match) {
			return !r.Deny, r.Name
		}
	}
	return false, ""
}

// meets says that a fault is for this caller.
func (q request) meets(f ir.Fault) bool {
	if f.Principal != nil {
		return q.principalFits(*f.Principal)
	}
	return len(f.Callers) == 0 || slices.ContainsFunc(f.Callers, q.identityFits)
}

func valueFits(m ir.ValueMatch, value string, there bool) bool {
	switch m.Kind {
	case ir.ValuePresent:
		return there
	case ir.ValueAbsent:
		return !there
	case ir.ValueRegex:
		return there && whole(m.Value, value)
	case ir.ValuePrefix:
		return there && strings.HasPrefix(value, m.Value)
	}
	return there && value == m.Value
}

// whole says that the expression takes the whole text; validation has refused those that do not compile.
func whole(expression, text string) bool {
	re, err := regexp.Compile(`\A(?:` + expression + `)\z`)
	return err == nil && re.MatchString(text)
}
