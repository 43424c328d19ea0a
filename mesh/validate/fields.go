package validate

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// address is an IP or a DNS name, and not the address that means all.
func (c *check) address(path, a string) {
	ip, err := netip.ParseAddr(a)
	switch {
	case a == "":
	case err == nil && ip.IsUnspecified():
		c.add(path, "must be an address that others can dial, not %s", a)
	case err != nil && !mesh.IsDNSName(strings.ToLower(a)):
		c.add(path, "must be an IP address or a DNS name")
	}
}

func (c *check) ip(path, a string) {
	if _, err := netip.ParseAddr(a); a != "" && err != nil {
		c.add(path, "must be an IP address")
	}
}

// portNames finds names that two ports share; a port without a name is called by its number.
func (c *check) portNames(seen map[string]bool, path, name string, number uint32) {
	if name != "" && (len(name) > 63 || !dnsLabel.MatchString(name)) {
		c.add(path+".name", "must be lower-case letters, digits and \"-\", at most 63")
	}
	if name == "" {
		name = strconv.FormatUint(uint64(number), 10)
	}
	if seen[name] {
		c.add(path+".name", "%q is the name of another port too", name)
	}
	seen[name] = true
}

// includesGateways says that a top-level targetRef can select gateways.
func includesGateways(t *meshv1.TargetRef) bool {
	switch t.GetKind() {
	case "", "Mesh", "MeshSubset":
		return len(t.GetProxyTypes()) == 0 || slices.Contains(t.GetProxyTypes(), "Gateway")
	}
	return t.GetKind() == "MeshGateway" || t.GetKind() == "MeshHTTPRoute"
}

const (
	needsSidecars = "must not be given for gateways: give spec.targetRef proxyTypes [Sidecar], or " +
		"use Dataplane"
	needsGateways = "must not be given for sidecars: only builtin gateways have it; use rules"
	noGateways    = "has no effect: there are no builtin gateways; use rules"
)

// headerAdditions checks what goes into headers of proxies' own messages.
func (c *check) headerAdditions(path string, h *meshv1.HeaderAdditions) {
	for i, set := range h.GetSet() {
		c.changedHeader(fmt.Sprintf("%s.set[%d].name", path, i), set.GetName())
		c.printable(fmt.Sprintf("%s.set[%d].value", path, i), set.GetValue())
	}
	for i, add := range h.GetAdd() {
		c.changedHeader(fmt.Sprintf("%s.add[%d].name", path, i), add.GetName())
		c.printable(fmt.Sprintf("%s.add[%d].value", path, i), add.GetValue())
	}
}

func (c *check) positive(path string, d *durationpb.Duration) {
	if d != nil && d.AsDuration() <= 0 {
		c.add(path, "must be longer than 0")
	}
}

// period is a positive duration after which a proxy does something again.
func (c *check) period(path string, d *durationpb.Duration) {
	c.positive(path, d)
	if d != nil && d.AsDuration() < minPeriod {
		c.add(path, "must be at least %s", minPeriod)
	}
}

func (c *check) notNegative(path string, d *durationpb.Duration) {
	if d != nil && d.AsDuration() < 0 {
		c.add(path, "must not be negative; 0 turns it off")
	}
}

func (c *check) headerMatch(path string, h *meshv1.MeshHTTPRoute_HeaderMatch) {
	c.headerName(path+".name", h.GetName())
	switch h.GetType() {
	case "Present", "Absent":
		if h.GetValue() != "" {
			c.add(path+".value", "must not be given with type %s", h.GetType())
		}
	case "RegularExpression":
		c.expression(path+".value", h.GetValue())
	}
}

var headerToken = regexp.MustCompile("^[a-z0-9!#$%&'*+\\-.^_|~`]+$")

func (c *check) headerName(path, name string) {
	if name != "" && !headerToken.MatchString(name) {
		c.add(path, "must be a header name in lower case")
	}
}

// connectionHeaders belong to one connection or frame the body (RFC 9110, sections 7.6.1 and 8.6):
// with one of another's choice messages are cut or refused.
var connectionHeaders = []string{"connection", "content-length", "keep-alive", "proxy-connection", "te",
	"transfer-encoding", "upgrade"}

// changedHeader is the name of a header that a policy adds, sets or removes. Envoy keeps the host to itself.
func (c *check) changedHeader(path, name string) {
	c.headerName(path, name)
	switch {
	case name == "host":
		c.add(path, "must not be host, which Envoy sets itself; filters of type URLRewrite have hostname")
	case slices.Contains(connectionHeaders, name):
		c.add(
			path,
			"must not be %s: it is about one connection or about the length of the body, which Envoy "+
				"sees to",
			name,
		)
	}
}

// number reads an integer or a decimal as text; it is not ok if there is none, or text that is not a number.
func (c *check) number(path string, p *meshv1.IntOrString) (float64, bool) {
	if p == nil {
		return 0, false
	}
	v, ok := mesh.Number(p)
	if !ok {
		c.add(path, "must be a number, such as 5 or \"2.5\"")
	}
	return v, ok
}

// percentage is a number from 0 to 100.
func (c *check) percentage(path string, p *meshv1.IntOrString) {
	if v, ok := c.number(path, p); ok && (v < 0 || v > 100) {
		c.add(path, "must be from 0 to 100")
	}
}

// directions checks a policy that gateways have "to" for and sidecars "from", by how many entries each has.
func (c *check) directions(gateways bool, to, from int) {
	if to > 0 {
		if !gateways {
			c.add("spec.to", needsGateways)
		}
		c.warn("spec.to", noGateways)
	}
	if from > 0 {
		if gateways {
			c.add("spec.from", needsSidecars)
		}
		c.warn("spec.from", "is deprecated: use rules")
	}
}

// matches checks those of a rule, and says whether one is about the caller's identity.
func (c *check) matches(path string, list []*meshv1.Match) (caller bool) {
	for i, m := range list {
		c.match(fmt.Sprintf("%s.matches[%d]", path, i), m)
		caller = caller || m.GetSpiffeId() != nil
	}
	return caller
}
