package validate

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshLoadBalancingStrategyRules(c *check, s *meshv1.MeshLoadBalancingStrategy) {
	gateway := s.GetTargetRef().GetKind() == "MeshGateway"
	for i, to := range s.GetTo() {
		path, conf := fmt.Sprintf("spec.to[%d]", i), to.GetDefault()
		t := to.GetTargetRef()
		if gateway && conf.GetLoadBalancer() != nil && t.GetKind() != "" && t.GetKind() != "Mesh" {
			c.unsupported(path+".targetRef", t, "Mesh")
		}
		at := path + ".default"
		if t.GetKind() == "MeshHTTPRoute" {
			if conf.GetLoadBalancer() != nil {
				c.add(at+".loadBalancer",
					"must not be given for a MeshHTTPRoute: only hashPolicies are a route's own")
			}
			if conf.GetLocalityAwareness() != nil {
				c.add(at+".localityAwareness",
					"must not be given for a MeshHTTPRoute: only hashPolicies are a route's own")
			}
		}
		if (t.GetSectionName() != "" || len(t.GetLabels()) > 0) &&
			conf.GetLocalityAwareness().GetCrossZone() != nil {
			c.ofOneZone(at+".localityAwareness.crossZone", mesh.Kind(t.GetKind()))
		}
		c.locality(at+".localityAwareness", conf.GetLocalityAwareness())
		c.loadBalancer(at, conf)
		if lb := conf.GetLoadBalancer().GetType(); len(conf.GetHashPolicies()) > 0 &&
			lb != "RingHash" && lb != "Maglev" && t.GetKind() != "MeshHTTPRoute" {
			c.warn(
				at+".hashPolicies",
				"has an effect only with a loadBalancer of type RingHash or Maglev, here or "+
					"in another policy for the destination",
			)
		}
		c.hashPolicies(at+".hashPolicies", conf.GetHashPolicies())
	}
}

// ofOneZone rejects what concerns other zones for a kind whose destinations are of one zone.
func (c *check) ofOneZone(path string, kind mesh.Kind) {
	for info := range destination.From(destination.Combined) {
		if info.MemberKind == kind {
			c.add(path, "must not be given for a %s with sectionName or labels: it is of one zone; use a %s",
				kind, info.Kind)
		}
	}
}

func (c *check) locality(path string, l *meshv1.MeshLoadBalancingStrategy_LocalityAwareness) {
	tags, weights := l.GetLocalZone().GetAffinityTags(), 0
	for _, t := range tags {
		if t.Weight != nil {
			weights++
		}
	}
	if weights > 0 && weights < len(tags) {
		c.add(path+".localZone.affinityTags", "must have a weight for every tag or for none")
	}
	for i, f := range l.GetCrossZone().GetFailover() {
		at := fmt.Sprintf("%s.crossZone.failover[%d].to.zones", path, i)
		switch zones := len(f.GetTo().GetZones()); f.GetTo().GetType() {
		case "Any", "None":
			if zones > 0 {
				c.add(at, "must not be given with type %s", f.GetTo().GetType())
			}
		case "Only", "AnyExcept":
			if zones == 0 {
				c.add(at, "is required with type %s", f.GetTo().GetType())
			}
		}
	}
	at := path + ".crossZone.failoverThreshold.percentage"
	if v, ok := c.number(at, l.GetCrossZone().GetFailoverThreshold().GetPercentage()); ok &&
		(v <= 0 || v > 100) {
		c.add(at, "must be above 0 and at most 100")
	}
}

func (c *check) loadBalancer(path string, conf *meshv1.MeshLoadBalancingStrategy_Conf) {
	lb, at := conf.GetLoadBalancer(), path+".loadBalancer"
	if v, ok := c.number(at+".leastRequest.activeRequestBias",
		lb.GetLeastRequest().GetActiveRequestBias()); ok && (v < 0 || v > 100) {
		c.add(at+".leastRequest.activeRequestBias", "must be from 0 to 100")
	}
	ring, table := lb.GetRingHash(), lb.GetMaglev()
	if ring.GetMaxRingSize() > 0 && ring.GetMinRingSize() > ring.GetMaxRingSize() {
		c.add(at+".ringHash.minRingSize", "must not be above maxRingSize")
	}
	if size := table.GetTableSize(); size > 0 && !big.NewInt(int64(size)).ProbablyPrime(0) {
		c.add(at+".maglev.tableSize", "must be a prime number")
	}
	for _, old := range []struct {
		at   string
		list []*meshv1.MeshLoadBalancingStrategy_HashPolicy
	}{{at + ".ringHash.hashPolicies", ring.GetHashPolicies()},
		{at + ".maglev.hashPolicies", table.GetHashPolicies()}} {
		if len(old.list) == 0 {
			continue
		}
		c.warn(old.at, "is deprecated here: use hashPolicies beside loadBalancer")
		if len(conf.GetHashPolicies()) > 0 {
			c.add(old.at, "cannot be combined with hashPolicies beside loadBalancer")
		}
		c.hashPolicies(old.at, old.list)
	}
}

// cookieName is a token (RFC 6265, section 4.1.1).
var cookieName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$")

func (c *check) hashPolicies(path string, list []*meshv1.MeshLoadBalancingStrategy_HashPolicy) {
	for i, h := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		require := func(missing bool, body string) {
			if missing {
				c.add(at+"."+body, "is required for type %s", h.GetType())
			}
		}
		switch h.GetType() {
		case "Header":
			require(h.GetHeader() == nil, "header")
			c.headerName(at+".header.name", strings.ToLower(h.GetHeader().GetName()))
		case "Cookie":
			require(h.GetCookie() == nil, "cookie")
			if n := h.GetCookie().GetName(); n != "" && !cookieName.MatchString(n) {
				c.add(at+".cookie.name", "must be the name of a cookie: letters, digits and !#$%%&'*+-.^_`|~")
			}
			c.notNegative(at+".cookie.ttl", h.GetCookie().GetTtl())
			if h.GetCookie() != nil && h.GetCookie().Path != nil &&
				!strings.HasPrefix(h.GetCookie().GetPath(), "/") {
				c.add(at+".cookie.path", "must begin with a slash")
			}
			c.printable(at+".cookie.path", h.GetCookie().GetPath())
		case "Connection":
			require(h.GetConnection() == nil, "connection")
		case "SourceIP":
			require(h.GetConnection() == nil, "connection")
			c.warn(at+".type", "SourceIP is deprecated: use Connection with sourceIP true")
		case "QueryParameter":
			require(h.GetQueryParameter() == nil, "queryParameter")
			c.encodedQuery(at+".queryParameter.name", h.GetQueryParameter().GetName())
		case "FilterState":
			require(h.GetFilterState() == nil, "filterState")
		}
	}
}
