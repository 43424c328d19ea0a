package churn

import (
	"fmt"
	"math/rand/v2"

	"github.com/meridian-mesh/meridian/mesh"
)

// walk is the random walk through configurations. Each step leaves a mesh in which every request is answered.
type walk struct {
	w        *world
	rand     *rand.Rand
	services []string
	extras   []string
	// there are the extra services, and what else was written, by kind and name.
	there map[string]bool
	split string // the extra service that the route of the first service uses; empty if it uses none
	turn  int
}

// strict is the service that is called without retries.
func (s *walk) strict() string { return s.services[len(s.services)-1] }

const setup = `
type: Mesh
name: default
meshServices: {mode: Exclusive}
mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}
---
type: MeshTrafficPermission
mesh: default
name: everybody
spec:
  targetRef: {kind: Dataplane}
  rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://default/"}}]}}]
`

func service(name, app string) string {
	return fmt.Sprintf(`---
type: MeshService
mesh: default
name: %s
spec:
  selector: {dataplaneLabels: {matchLabels: {app: %s}}}
  ports: [{name: http, port: 80, targetPort: http, appProtocol: http}]
`, name, app)
}

// to is a policy of callers of a service, about the calls that they make.
func to(kind, name, service, conf string) string {
	return fmt.Sprintf(`---
type: %s
mesh: default
name: %s
spec:
  targetRef: {kind: Mesh}
  to: [{targetRef: {kind: MeshService, name: %s}, default: %s}]
`, kind, name, service, conf)
}

// about is a policy of the instances of a service, about those who call them.
func about(kind, name, service, conf string) string {
	return fmt.Sprintf(`---
type: %s
mesh: default
name: %s
spec:
  targetRef: {kind: Dataplane, labels: {app: %s}}
  rules: [{default: %s}]
`, kind, name, service, conf)
}

func route(name, service, rules string) string {
	return fmt.Sprintf(`---
type: MeshHTTPRoute
mesh: default
name: %s
spec:
  targetRef: {kind: Mesh}
  to: [{targetRef: {kind: MeshService, name: %s}, rules: %s}]
`, name, service, rules)
}

// begin writes the mesh, all services that stay, and the policy of the strict one.
func (s *walk) begin() (uint64, error) {
	text := setup
	for _, name := range s.services {
		text += service(name, name)
	}
	return s.w.write(text + to("MeshRetry", "never", s.strict(), "{http: {numRetries: 0}}"))
}

// conf is a variant of a policy; n makes each time another of it.
type conf struct {
	kind mesh.Kind
	// inbound policies are of the instances that are called, and change their listener.
	inbound bool
	// listener says that a policy of calls changes the listener at which the service is called; the
	// others change clusters or routes.
	listener bool
	text     func(n int) string
}

func (c conf) touches(what, service string) touch {
	did := touch{what: what}
	if c.inbound {
		did.inbound = service
	} else if c.listener {
		did.outbound = service
	}
	return did
}

var policies = []conf{
	{mesh.KindMeshTimeout, false, true, func(n int) string {
		return fmt.Sprintf("{idleTimeout: %dm, http: {requestTimeout: %ds, streamIdleTimeout: %dm}}", 30+n%9,
			20+n%7, 10+n%5)
	}},
	{mesh.KindMeshTimeout, true, false,
		func(n int) string { return fmt.Sprintf("{http: {requestTimeout: %ds}}", 20+n%9) }},
	{mesh.KindMeshRetry, false, false, func(n int) string {
		return fmt.Sprintf("{http: {numRetries: %d, perTryTimeout: %ds}}", 1+n%5, 10+n%4)
	}},
	{mesh.KindMeshCircuitBreaker, false, false, func(n int) string {
		return fmt.Sprintf("{connectionLimits: {maxConnections: %d, maxRequests: %d}, outlierDetection: "+
			"{interval: 1s, detectors: {totalFailures: {consecutive: %d}}}}",
			500+n, 600+n, 20+n%9)
	}},
	{mesh.KindMeshLoadBalancingStrategy, false, false, func(n int) string {
		return "{loadBalancer: {type: " +
			[]string{"RoundRobin", "LeastRequest", "Random", "RingHash", "Maglev"}[n%5] + "}}"
	}},
	{mesh.KindMeshHealthCheck, false, false, func(n int) string {
		return fmt.Sprintf("{interval: 1s, timeout: %ds, unhealthyThreshold: 3, healthyThreshold: 1, http: "+
			"{path: /%d, expectedStatuses: [200]}}", 10+n%9, n)
	}},
	{mesh.KindMeshRateLimit, true, false, func(n int) string {
		return fmt.Sprintf("{local: {http: {requestRate: {num: %d, interval: 1s}}}}", 100000+n)
	}},
	{mesh.KindMeshFaultInjection, true, false, func(n int) string {
		return fmt.Sprintf("{http: [{delay: {value: %dms, percentage: 10}}]}", 1+n%9)
	}},
	{mesh.KindMeshTrafficPermission, true, false, func(n int) string {
		return fmt.Sprintf(`{allow: [{spiffeID: {type: Exact, value: "spiffe://default/absent-%d"}}]}`, n)
	}},
}

// touch says what a step did, and of which service it may change the listeners: those of its
// instances for what comes in, and those of everybody at which it is called.
type touch struct{ what, inbound, outbound string }

// step writes the next change, in one commit or several that follow at once, and says what it was.
// Changes that depend on each other are written in the order in which a person would, without a
// pause.
func (s *walk) step() (did touch, revision uint64, err error) {
	s.turn++
	switch pick := s.rand.IntN(10); {
	case pick < 2:
		return s.serviceStep()
	case pick < 5:
		return s.routeStep()
	default:
		return s.policyStep()
	}
}

// serviceStep makes an extra service, points it at other instances, or takes it away, the route
// that uses it first.
func (s *walk) serviceStep() (touch, uint64, error) {
	name := s.extras[s.rand.IntN(len(s.extras))]
	if s.there[name] && s.rand.IntN(2) == 0 {
		if s.split == name {
			if _, err := s.w.remove(mesh.KindMeshHTTPRoute, "split"); err != nil {
				return touch{what: name}, 0, err
			}
			s.split = ""
			delete(s.there, "split")
		}
		delete(s.there, name)
		revision, err := s.w.remove(mesh.KindMeshService, name)
		return touch{what: name + " goes", outbound: name}, revision, err
	}
	s.there[name] = true
	app := s.services[s.rand.IntN(len(s.services))]
	revision, err := s.w.write(service(name, app))
	return touch{what: name + " is of " + app, outbound: name}, revision, err
}

// routeStep changes where requests for the first service go, or how those for the second get there.
func (s *walk) routeStep() (touch, uint64, error) {
	switch s.rand.IntN(4) {
	case 0:
		if s.there["split"] {
			delete(s.there, "split")
			s.split = ""
			revision, err := s.w.remove(mesh.KindMeshHTTPRoute, "split")
			return touch{what: "no split"}, revision, err
		}
		fallthrough
	case 1:
		// A new service and the route to it, without a pause.
		s.split = s.extras[s.rand.IntN(len(s.extras))]
		app := s.services[s.rand.IntN(len(s.services))]
		did := touch{what: "split to " + s.split}
		if !s.there[s.split] {
			did.outbound = s.split
			if _, err := s.w.write(service(s.split, app)); err != nil {
				return touch{what: s.split}, 0, err
			}
		}
		s.there[s.split], s.there["split"] = true, true
		revision, err := s.w.write(route("split", s.services[0], fmt.Sprintf(`[
      {matches: [{path: {type: PathPrefix, value: /%d}}], default: {backendRefs: [
        {kind: MeshService, name: %s, port: 80}]}},
      {matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [
        {kind: MeshService, name: %s, port: 80, weight: %d},
        {kind: MeshService, name: %s, port: 80, weight: %d}]}}]`,
			s.turn, s.services[1], s.services[0], 1+s.rand.IntN(90), s.split, 1+s.rand.IntN(90))))
		return did, revision, err
	default:
		s.there["edit"] = true
		revision, err := s.w.write(route("edit", s.services[1], fmt.Sprintf(`[
      {matches: [{path: {type: PathPrefix, value: /}}], default: {
        filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-turn, value: "%d"}]}}],
        backendRefs: [{kind: MeshService, name: %s, port: 80}]}}]`, s.turn, s.services[s.rand.IntN(2)])))
		return touch{what: "edit"}, revision, err
	}
}

// policyStep writes a policy of one service, another variant of it, or takes it away.
func (s *walk) policyStep() (touch, uint64, error) {
	p := policies[s.rand.IntN(len(policies))]
	target := s.services[s.rand.IntN(len(s.services))]
	name := fmt.Sprintf("on-%s", target)
	if p.inbound {
		name = fmt.Sprintf("at-%s", target)
	}
	id := fmt.Sprintf("%s %s", p.kind, name)
	if s.there[id] && s.rand.IntN(3) == 0 {
		delete(s.there, id)
		revision, err := s.w.remove(p.kind, name)
		return p.touches(id+" goes", target), revision, err
	}
	if p.kind == mesh.KindMeshRetry && target == s.strict() {
		return s.policyStep()
	}
	s.there[id] = true
	form := to
	if p.inbound {
		form = about
	}
	revision, err := s.w.write(form(string(p.kind), name, target, p.text(s.turn)))
	return p.touches(id, target), revision, err
}
