package services

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// States of a ProxyInsight.
const (
	stateOnline   = "Online"
	stateDraining = "Draining"
)

// computeSpec writes identities and state of a service of this zone.
func (s *state) computeSpec(k mesh.Key) {
	service := s.get(k)
	if service == nil {
		return
	}
	spec := mesh.Spec[*meshv1.MeshService](service)
	matched := s.matched(service)
	var identities []*meshv1.MeshService_Identity
	if len(matched) == 0 {
		identities = spec.GetIdentities()
	} else {
		identities = identitiesOf(matched)
	}
	state := "Unavailable"
	if s.counts(spec, matched).GetHealthy() > 0 {
		state = "Available"
	}
	if state == spec.GetState() &&
		slices.EqualFunc(identities, spec.GetIdentities(), func(a, b *meshv1.MeshService_Identity) bool {
			return proto.Equal(a, b)
		}) {
		return
	}
	next := service.Clone()
	spec = next.Spec.(*meshv1.MeshService)
	spec.Identities, spec.State = identities, state
	s.put(next)
}

// matched are the Dataplanes that a service selects, in the order of keys.
func (s *state) matched(service *mesh.Resource) []*mesh.Resource {
	t, ok := termOf(service)
	if !ok {
		return nil
	}
	sel := destination.SelectorOf(service)
	var out []*mesh.Resource
	for _, k := range s.index.dataplanes[t].sorted() {
		if dp, ok := s.view.Get(k); ok && selector.SelectsDataplane(sel, dp) {
			out = append(out, dp)
		}
	}
	return out
}

// identitiesOf are the service tags that the members' certificates may carry, sorted.
func identitiesOf(matched []*mesh.Resource) []*meshv1.MeshService_Identity {
	values := map[string]struct{}{}
	for _, dp := range matched {
		tagged := false
		net := mesh.Spec[*meshv1.Dataplane](dp).GetNetworking()
		for _, in := range net.GetInbound() {
			if v := in.GetTags()[mesh.TagService]; v != "" {
				values[v], tagged = struct{}{}, true
			}
		}
		if w := dp.Labels[mesh.LabelWorkload]; !tagged && w != "" {
			values[w] = struct{}{}
		}
	}
	var out []*meshv1.MeshService_Identity
	for _, v := range slices.Sorted(maps.Keys(values)) {
		out = append(out, &meshv1.MeshService_Identity{Type: "ServiceTag", Value: v})
	}
	return out
}

// counts of the proxies behind a service. Healthy is a proxy that callers would pick for each port
// that it has: each has a ready inbound whose workload answers, and the proxy is neither lost nor
// draining. A Dataplane that no proxy ever joined (written by hand) counts by its inbounds.
func (s *state) counts(spec *meshv1.MeshService, matched []*mesh.Resource) *meshv1.ProxyCounts {
	out := &meshv1.ProxyCounts{Total: uint32(len(matched))}
	for _, dp := range matched {
		var insight *meshv1.ProxyInsight
		if r, ok := s.view.Get(mesh.InsightKey(dp.Key)); ok {
			insight = mesh.Spec[*meshv1.ProxyInsight](r)
		}
		if insight.GetState() == stateOnline || insight.GetState() == stateDraining {
			out.Connected++
		}
		if insight != nil && insight.GetState() != stateOnline {
			continue
		}
		if everyPortReady(spec, dp, insight) {
			out.Healthy++
		}
	}
	return out
}

// everyPortReady says that a Dataplane serves a port of the service, and that each port that it has takes
// requests. One that lacks a port is an instance of the others.
func everyPortReady(spec *meshv1.MeshService, dp *mesh.Resource, insight *meshv1.ProxyInsight) bool {
	inbounds := mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetInbound()
	served := false
	for _, port := range spec.GetPorts() {
		has, takes := false, false
		for _, in := range inbounds {
			if portMatches(port, in) && in.GetState() != "Ignored" {
				has = true
				takes = takes || ready(in) && !slices.Contains(insight.GetNotReady(), selector.Section(in))
			}
		}
		if has && !takes {
			return false
		}
		served = served || takes
	}
	return served
}

// maxLacking is how many instances a condition names.
const maxLacking = 5

// portsServed is the condition that says which instances lack which ports; none if no port is lacking.
func portsServed(spec *meshv1.MeshService, matched []*mesh.Resource) []*meshv1.Condition {
	var lacking []string
	for _, dp := range matched {
		inbounds := mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetInbound()
		var ports []string
		for _, port := range spec.GetPorts() {
			if !slices.ContainsFunc(inbounds, func(in *meshv1.Dataplane_Inbound) bool {
				return portMatches(port, in)
			}) {
				ports = append(ports, strconv.FormatUint(uint64(port.GetPort()), 10))
			}
		}
		if len(ports) > 0 {
			lacking = append(lacking, fmt.Sprintf("%s lacks %s", dp.Key.Name, strings.Join(ports, ", ")))
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	slices.Sort(lacking)
	message := strings.Join(lacking[:min(len(lacking), maxLacking)], "; ")
	if n := len(lacking) - maxLacking; n > 0 {
		message += fmt.Sprintf("; and %d more", n)
	}
	return []*meshv1.Condition{{
		Type:    "PortsServed",
		Status:  "False",
		Reason:  "PortsDiffer",
		Message: message,
	}}
}

func portMatches(port *meshv1.ServicePort, in *meshv1.Dataplane_Inbound) bool {
	switch target := port.GetTargetPort().GetValue().(type) {
	case *meshv1.IntOrString_IntValue:
		return target.IntValue == int64(in.GetPort())
	case *meshv1.IntOrString_StringValue:
		return target.StringValue != "" && target.StringValue == in.GetName()
	}
	return false
}

// ready says whether an inbound takes requests: it is in state Ready (the default), and its health is
// not reported or good.
func ready(in *meshv1.Dataplane_Inbound) bool {
	return (in.GetState() == "" || in.GetState() == "Ready") &&
		(in.GetHealth() == nil || in.GetHealth().GetReady())
}

// computeStatus writes counts, TLS readiness and the copies of addresses of a service of this zone.
func (s *state) computeStatus(k mesh.Key) {
	service := s.get(k)
	if service == nil {
		return
	}
	spec := mesh.Spec[*meshv1.MeshService](service)
	old := mesh.Status[*meshv1.MeshServiceStatus](service)
	matched := s.matched(service)
	counts := s.counts(spec, matched)
	next := &meshv1.MeshServiceStatus{
		DataplaneProxies: counts, Delivery: old.GetDelivery(), Conditions: portsServed(spec, matched),
		Tls: &meshv1.MeshServiceStatus_TlsStatus{Status: s.tlsStatus(k.Mesh, old, counts)},
	}
	if va := s.get(mesh.VirtualAddressKey(s.cfg.Zone, k)); va != nil {
		if ip := mesh.Spec[*meshv1.VirtualAddress](va).GetIp(); ip != "" {
			next.Vips = []*meshv1.VIP{{Ip: ip}}
		}
	}
	next.Addresses, next.HostnameGenerators = s.hostnameStatus(k)
	if !proto.Equal(old, next) {
		s.putStatus(k, next)
	}
}

// tlsStatus becomes Ready when every proxy is connected, because a proxy has its certificate before its
// first configuration, and stays Ready while mTLS is on.
func (s *state) tlsStatus(meshName string, old *meshv1.MeshServiceStatus, counts *meshv1.ProxyCounts) string {
	if s.mesh(meshName).GetMtls().GetEnabledBackend() == "" {
		return "NotReady"
	}
	if old.GetTls().GetStatus() == "Ready" || counts.GetConnected() == counts.GetTotal() {
		return "Ready"
	}
	return "NotReady"
}
