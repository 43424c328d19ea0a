package services

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/hostname"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// claim is what one generator makes of one destination.
type claim struct {
	generator mesh.Key
	core      string
	host      string
	err       string
}

// loadGenerators reads all generators in their order: the zone's own first, then the oldest, then by name.
func (s *state) loadGenerators() {
	s.index.generators = nil
	for r := range s.view.List(mesh.KindHostnameGenerator, "") {
		if r.Key.Zone != "" && r.Key.Zone != s.cfg.Zone {
			continue
		}
		g := generator{key: r.Key, resource: r}
		g.template, g.err = hostname.Parse(mesh.Spec[*meshv1.HostnameGenerator](r).GetTemplate())
		s.index.generators = append(s.index.generators, g)
	}
	slices.SortFunc(s.index.generators, func(a, b generator) int {
		own := func(g generator) int {
			if g.key.Zone != "" {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(own(a), own(b)), olderFirst(a.resource, b.resource))
	})
}

// reclaim recomputes the hostnames that the generators give a destination, and marks every destination
// that shares one with what it claimed before or claims now.
func (s *state) reclaim(k mesh.Key) {
	for _, c := range s.index.claims[k] {
		if c.host == "" {
			continue
		}
		at := hostKey{k.Mesh, k.Kind, c.host}
		s.index.claimants.remove(at, k)
		s.touchClaimants(at)
	}
	delete(s.index.claims, k)
	r := s.get(k)
	if r == nil {
		return
	}
	claims := s.claimsOf(r)
	if len(claims) == 0 {
		return
	}
	s.index.claims[k] = claims
	for _, c := range claims {
		if c.host == "" {
			continue
		}
		at := hostKey{k.Mesh, k.Kind, c.host}
		s.index.claimants.add(at, k)
		s.touchClaimants(at)
	}
}

func (s *state) touchClaimants(at hostKey) {
	for other := range s.index.claimants[at] {
		s.dirty.destinations.add(other)
	}
}

// claimsOf is what every generator makes of r.
func (s *state) claimsOf(r *mesh.Resource) []claim {
	info, ok := destination.Lookup(r.Key.Kind)
	if !ok {
		return nil
	}
	var out []claim
	labels := selector.LabelsAt(r, s.cfg.Zone)
	for _, g := range s.index.generators {
		sel := mesh.Spec[*meshv1.HostnameGenerator](g.resource).GetSelector()
		want := info.GeneratorSelector(sel)
		if want == nil || !selector.Subset(want.GetMatchLabels(), labels) {
			continue
		}
		c := claim{generator: g.key, core: g.key.Name}
		host, err := g.render(hostname.Input{
			Name:        r.Key.Name,
			DisplayName: r.DisplayName(),
			Namespace:   r.Key.Namespace,
			Mesh:        r.Key.Mesh,
			Zone:        cmp.Or(labels[mesh.LabelZone], s.cfg.Zone),
		}, labels)
		if err != nil {
			c.err = err.Error()
		} else {
			c.host = host
		}
		out = append(out, c)
	}
	return out
}

func (g generator) render(in hostname.Input, labels map[string]string) (string, error) {
	if g.err != nil {
		return "", g.err
	}
	return g.template.Render(in, labels)
}

// owner is the destination that has a hostname: the oldest of those that claim it.
func (s *state) owner(at hostKey) mesh.Key {
	var first *mesh.Resource
	for k := range s.index.claimants[at] {
		if r := s.get(k); r != nil && (first == nil || olderFirst(r, first) < 0) {
			first = r
		}
	}
	if first == nil {
		return mesh.Key{}
	}
	return first.Key
}

// hostnames that a destination has, sorted.
func (s *state) hostnames(k mesh.Key) []string {
	var out []string
	for _, c := range s.index.claims[k] {
		if c.host != "" && s.owner(hostKey{k.Mesh, k.Kind, c.host}) == k {
			out = append(out, c.host)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// hostnameStatus is the same for people: addresses by generator, and how each generator fared.
func (s *state) hostnameStatus(k mesh.Key) ([]*meshv1.HostnameAddress, []*meshv1.HostnameGeneratorStatus) {
	var addresses []*meshv1.HostnameAddress
	var statuses []*meshv1.HostnameGeneratorStatus
	for _, c := range s.index.claims[k] {
		ref := &meshv1.HostnameGeneratorRef{CoreName: c.core}
		cond := &meshv1.Condition{Type: "Generated", Status: "False"}
		owner := s.owner(hostKey{k.Mesh, k.Kind, c.host})
		switch {
		case c.err != "":
			cond.Reason, cond.Message = "TemplateError", c.err
		case owner != k:
			cond.Reason, cond.Message = "Collision",
				fmt.Sprintf("hostname %s belongs to %s of zone %q", c.host, owner.Name, owner.Zone)
		default:
			cond.Status, cond.Reason = "True", "Generated"
			addresses = append(addresses, &meshv1.HostnameAddress{
				Hostname:             c.host,
				Origin:               "HostnameGenerator",
				HostnameGeneratorRef: ref,
			})
		}
		statuses = append(statuses, &meshv1.HostnameGeneratorStatus{
			HostnameGeneratorRef: ref,
			Conditions:           []*meshv1.Condition{cond},
		})
	}
	slices.SortStableFunc(addresses, func(a, b *meshv1.HostnameAddress) int {
		return cmp.Compare(a.GetHostnameGeneratorRef().GetCoreName(),
			b.GetHostnameGeneratorRef().GetCoreName())
	})
	slices.SortStableFunc(statuses, func(a, b *meshv1.HostnameGeneratorStatus) int {
		return cmp.Compare(a.GetHostnameGeneratorRef().GetCoreName(),
			b.GetHostnameGeneratorRef().GetCoreName())
	})
	return addresses, statuses
}
