package services

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// resolveAddresses binds virtual IPs and hostnames of all dirty destinations.
func (s *state) resolveAddresses() {
	for _, k := range s.dirty.destinations.sorted() {
		s.reclaim(k)
	}
	// Oldest first, so that a rebuild hands out addresses in a stable order.
	var gone []mesh.Key
	var there []*mesh.Resource
	for _, k := range s.dirty.destinations.sorted() {
		if r := s.get(k); r != nil {
			there = append(there, r)
		} else {
			gone = append(gone, k)
		}
	}
	for _, k := range gone {
		s.release(k)
	}
	slices.SortFunc(there, olderFirst)
	for _, r := range there {
		s.bind(r)
		if isLocal(r.Key, s.cfg.Zone) {
			s.dirty.services.add(r.Key)
		}
	}
}

// bind keeps the VirtualAddress of a destination.
func (s *state) bind(r *mesh.Resource) {
	key := mesh.VirtualAddressKey(s.cfg.Zone, r.Key)
	existing := s.get(key)
	delete(s.timed, key)
	next := &meshv1.VirtualAddress{Destination: r.Key.Proto(), Hostnames: s.hostnames(r.Key)}
	if existing != nil {
		next.Ip = mesh.Spec[*meshv1.VirtualAddress](existing).GetIp()
	}
	if next.Ip == "" {
		ip, ok := s.allocate(r.Key.Kind)
		if !ok {
			s.short++
			s.log.Error("no virtual IP is left for a destination; enlarge the range",
				zap.Stringer("destination", r.Key))
			return
		}
		next.Ip = ip.String()
		s.plan.allocated = true
	}
	res := &mesh.Resource{
		Key:     key,
		Created: s.now,
		Spec:    next,
		Labels: map[string]string{
			mesh.LabelMesh: key.Mesh, mesh.LabelZone: s.cfg.Zone, mesh.LabelOrigin: mesh.OriginZone,
		},
	}
	if existing != nil {
		res.Created = existing.Created
	}
	s.putIfChanged(existing, res)
}

// release quarantines the address of a destination that is gone, and forgets it after the quarantine.
func (s *state) release(k mesh.Key) {
	key := mesh.VirtualAddressKey(s.cfg.Zone, k)
	existing := s.get(key)
	delete(s.timed, key)
	if existing == nil {
		return
	}
	spec := mesh.Spec[*meshv1.VirtualAddress](existing)
	since := s.now
	if spec.GetReleased() != nil {
		since = spec.GetReleased().AsTime()
	} else {
		next := existing.Clone()
		n := next.Spec.(*meshv1.VirtualAddress)
		n.Released, n.Hostnames = timestamppb.New(s.now), nil
		s.put(next)
	}
	end := since.Add(s.cfg.Quarantine)
	if !end.After(s.now) {
		s.remove(key)
		return
	}
	s.timed[key] = timed{at: end, destination: k}
}

// allocate finds a free address: the one after the highest in use, then any free one, then the one
// that has been in quarantine the longest.
func (s *state) allocate(kind mesh.Kind) (netip.Addr, bool) {
	prefix, ok := s.cfg.Prefixes[kind]
	if !ok {
		return netip.Addr{}, false
	}
	used := map[netip.Addr]bool{}
	highest := prefix.Addr()
	use := func(ip netip.Addr) {
		if prefix.Contains(ip) {
			used[ip] = true
			if highest.Less(ip) {
				highest = ip
			}
		}
	}
	for ip := range s.index.addresses {
		use(ip)
	}
	for k, r := range s.plan.puts {
		if k.Kind == mesh.KindVirtualAddress && r != nil {
			if ip, err := netip.ParseAddr(mesh.Spec[*meshv1.VirtualAddress](r).GetIp()); err == nil {
				use(ip)
			}
		}
	}
	if ip := highest.Next(); prefix.Contains(ip) {
		return ip, true
	}
	for ip := prefix.Addr().Next(); prefix.Contains(ip); ip = ip.Next() {
		if !used[ip] {
			return ip, true
		}
	}
	return s.reuse(prefix)
}

// reuse takes the address that has been in quarantine the longest.
func (s *state) reuse(prefix netip.Prefix) (netip.Addr, bool) {
	type candidate struct {
		ip    netip.Addr
		key   mesh.Key
		since time.Time
	}
	var all []candidate
	for ip, k := range s.index.addresses {
		r := s.get(k)
		if r == nil || !prefix.Contains(ip) {
			continue
		}
		if spec := mesh.Spec[*meshv1.VirtualAddress](r); spec.GetReleased() != nil {
			all = append(all, candidate{ip, k, spec.GetReleased().AsTime()})
		}
	}
	if len(all) == 0 {
		return netip.Addr{}, false
	}
	oldest := slices.MinFunc(all,
		func(a, b candidate) int { return cmp.Or(a.since.Compare(b.since), a.ip.Compare(b.ip)) })
	s.remove(oldest.key)
	return oldest.ip, true
}
