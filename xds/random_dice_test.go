package xds

import (
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

// dice makes random resources from few names, so that they meet.
type dice struct {
	*rand.Rand
	live map[mesh.Key]bool
	ids  map[mesh.Key]bool
	// visit, if set, is what happens to a proxy now and then, in place of a watch's opening or closing.
	visit func(proxy mesh.Key) string
	// author writes some of the policies.
	author *xdstest.Author
}

func newDice(seed uint64) *dice {
	r := rand.New(rand.NewPCG(seed, 7))
	return &dice{Rand: r, live: map[mesh.Key]bool{}, ids: map[mesh.Key]bool{}, author: xdstest.NewAuthor(r)}
}

// other is of a kind that proxies hear little or nothing of.
func (d *dice) other() *mesh.Resource {
	switch d.IntN(6) {
	case 0:
		return resource(mesh.KindZone, "", d.of("west", "north"), &meshv1.Zone{})
	case 1:
		return resource(mesh.KindGlobalSecret, "", "g", &meshv1.Secret{Data: []byte(d.service())})
	case 2:
		return resource(mesh.KindHostnameGenerator, "", "h",
			&meshv1.HostnameGenerator{Template: "{{ .Name }}." + d.service()})
	case 3:
		return resource(mesh.KindSecret, "", d.of("a-secret", "another"),
			&meshv1.Secret{Data: []byte(d.service())})
	case 4:
		of := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: testZone, Name: d.service()}
		return &mesh.Resource{
			Key:  mesh.VirtualAddressKey(testZone, of),
			Spec: &meshv1.VirtualAddress{Ip: d.of("240.0.0.1", "240.0.0.2", "240.0.0.3")},
		}
	}
	return resource(mesh.KindZoneIngressInsight, testZone, "ingress",
		&meshv1.ProxyInsight{State: d.of("Online", "Lost")})
}

// policy is any policy of any kind, most often about names that are here.
func (d *dice) policy() *mesh.Resource {
	var kinds []*mesh.KindInfo
	for _, info := range mesh.Kinds {
		if info.Policy != nil {
			kinds = append(kinds, info)
		}
	}
	r := d.author.Policy(kinds[d.IntN(len(kinds))], d.of("q1", "q2", "q3", "q4"))
	if top := r.Spec.ProtoReflect().Descriptor().Fields().ByName("target_ref"); top != nil && d.half() {
		r.Spec.ProtoReflect().Clear(top)
	}
	return r
}

func (d *dice) of(list ...string) string { return list[d.IntN(len(list))] }
func (d *dice) service() string          { return d.of("a", "b", "c") }
func (d *dice) zone() string             { return d.of(testZone, testZone, "west", "north") }
func (d *dice) half() bool               { return d.IntN(2) == 0 }
func (d *dice) duration() *durationpb.Duration {
	return durationpb.New(time.Duration(1+d.IntN(3)) * time.Second)
}

// step does one random thing and says what.
func (d *dice) step(w *world, followed map[mesh.Key]*watch) string {
	proxy := mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: testZone, Name: d.of("p1", "p2", "p3")}
	if d.IntN(6) == 0 {
		proxy = mesh.Key{Kind: mesh.KindZoneIngress, Zone: testZone, Name: "ingress"}
	}
	switch d.IntN(10) {
	case 0:
		if d.visit != nil {
			return d.visit(proxy)
		}
		if f := followed[proxy]; f != nil {
			f.Close()
			w.e.processEvents()
			delete(followed, proxy)
			return "closing " + proxy.String()
		}
		followed[proxy] = w.open(proxy)
		return "opening " + proxy.String()
	case 1:
		if d.ids[proxy] {
			delete(d.ids, proxy)
			w.e.SetIdentity(proxy, nil)
		} else if proxy.Kind == mesh.KindDataplane {
			d.ids[proxy] = true
			w.e.SetIdentity(proxy, testIdentity)
		}
		w.e.processEvents()
		return "identity of " + proxy.String()
	case 2:
		for k := range d.live { // map order is random, but the sequence must replay
			if first, ok := d.smallest(); ok {
				k = first
			}
			delete(d.live, k)
			w.remove(k)
			return "removing " + k.String()
		}
	case 3:
		k := mesh.Key{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: "multi"}
		if d.live[k] {
			s := &meshv1.MeshMultiZoneServiceStatus{}
			for range d.IntN(4) {
				s.MeshServices = append(s.MeshServices, &meshv1.MeshMultiZoneServiceStatus_Member{
					Name:       d.service(),
					Zone:       d.zone(),
					Mesh:       "default",
					Ports:      []uint32{8080},
					Healthy:    uint32(d.IntN(3)),
					Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: d.service()}},
				})
			}
			w.status(k, s)
			return "status of " + k.String()
		}
	}
	n := 1 + d.IntN(3)
	var rs []*mesh.Resource
	text := "writing"
	for range n {
		r := d.resource()
		if d.dup(rs, r.Key) {
			continue
		}
		d.live[r.Key] = true
		rs = append(rs, r)
		text += " " + r.Key.String()
	}
	w.put(rs...)
	return text
}

func (d *dice) dup(rs []*mesh.Resource, k mesh.Key) bool {
	for _, r := range rs {
		if r.Key == k {
			return true
		}
	}
	return false
}

// smallest picks a live key in a way that replays.
func (d *dice) smallest() (mesh.Key, bool) {
	var best mesh.Key
	ok := false
	salt := d.Uint64()
	weight := func(k mesh.Key) uint64 {
		h := salt
		for _, c := range k.String() {
			h = h*1099511628211 ^ uint64(c)
		}
		return h
	}
	for k := range d.live {
		if !ok || weight(k) < weight(best) {
			best, ok = k, true
		}
	}
	return best, ok
}

func (d *dice) resource() *mesh.Resource {
	switch d.IntN(20) {
	case 17:
		return d.other()
	case 18, 19:
		return d.policy()
	case 15:
		return d.limit()
	case 16:
		return d.fault()
	case 14:
		return d.resilience()
	case 12:
		return d.balancing()
	case 13:
		return d.tcpRoute()
	case 0:
		return testMesh(d.of("", "STRICT", "STRICT", "PERMISSIVE"))
	case 1:
		r := resource(mesh.KindSecret, "", "default.ca-builtin-cert-ca-1",
			&meshv1.Secret{Data: []byte(d.of(testCert, testCert+"\n"))})
		return r
	case 2, 3:
		s := testService(d.zone(), d.service(), 8080)
		spec := s.Spec.(*meshv1.MeshService)
		if d.half() {
			s.Labels = map[string]string{"team": d.of("x", "y")}
		}
		switch d.IntN(5) {
		case 0:
			spec.Selector = &meshv1.MeshService_Selector{
				DataplaneLabels: &meshv1.MeshService_DataplaneLabels{
					MatchLabels: map[string]string{"app": d.service()}}}
		case 1:
			spec.Selector = &meshv1.MeshService_Selector{
				DataplaneRef: &meshv1.MeshService_DataplaneRef{Name: "p1"}}
		case 2:
			spec.Ports[0].AppProtocol = d.of("tcp", "grpc")
		case 3:
			spec.Ports[0].TargetPort = &meshv1.IntOrString{
				Value: &meshv1.IntOrString_StringValue{StringValue: "http"}}
		}
		return s
	case 4:
		return resource(mesh.KindMeshMultiZoneService, "", "multi", &meshv1.MeshMultiZoneService{
			Selector: &meshv1.MeshMultiZoneService_Selector{
				MeshService: &meshv1.MeshMultiZoneService_MeshServiceSelector{
					MatchLabels: map[string]string{mesh.LabelDisplayName: d.service()}}},
			Ports: []*meshv1.MeshMultiZoneService_Port{{
				Port:        8080,
				Name:        "http",
				AppProtocol: d.of("http", "tcp"),
			}},
		})
	case 5, 6:
		return d.dataplane()
	case 7:
		return resource(mesh.KindDataplaneInsight, testZone, d.of("p1", "p2", "p3"),
			&meshv1.ProxyInsight{State: d.of("Online", "Lost", "Draining")})
	case 8:
		z := d.zone()
		r := resource(mesh.KindZoneIngress, z, "ingress", &meshv1.ZoneIngress{
			Zone: z,
			Networking: &meshv1.ZoneIngress_Networking{
				Address:           "10.0.0.9",
				Port:              10001,
				AdvertisedAddress: d.of("192.0.2.1", "192.0.2.2"),
				AdvertisedPort:    10001,
			},
		})
		if d.half() && z != testZone {
			return resource(mesh.KindZoneIngressInsight, z, "ingress",
				&meshv1.ProxyInsight{State: d.of("Online", "Lost")})
		}
		return r
	case 9:
		return d.permission()
	case 10:
		return d.route()
	}
	return d.timeout()
}

func (d *dice) dataplane() *mesh.Resource {
	dp := testDataplane(d.of("p1", "p2", "p3"), d.of("10.0.0.1", "10.0.0.2"), d.service(), 8080)
	dp.Labels = map[string]string{"app": d.service()}
	n := dp.Spec.(*meshv1.Dataplane).Networking
	for i := range d.IntN(4) {
		o := &meshv1.Dataplane_Outbound{
			Port: uint32(10000 + i),
			BackendRef: &meshv1.Dataplane_OutboundBackendRef{
				Kind: "MeshService",
				Name: d.service(),
				Port: 8080,
			},
		}
		switch d.IntN(4) {
		case 0:
			o.BackendRef = &meshv1.Dataplane_OutboundBackendRef{
				Kind: "MeshMultiZoneService",
				Name: "multi",
				Port: 8080,
			}
		case 1:
			o.BackendRef = &meshv1.Dataplane_OutboundBackendRef{
				Kind:   "MeshService",
				Labels: map[string]string{mesh.LabelZone: d.of("west", "north")},
				Port:   8080,
			}
		case 2:
			o.BackendRef, o.Tags = nil, map[string]string{mesh.TagService: d.service()}
		}
		n.Outbound = append(n.Outbound, o)
	}
	if d.IntN(3) == 0 {
		n.TransparentProxying = &meshv1.Dataplane_TransparentProxying{
			RedirectPortInbound:  15006,
			RedirectPortOutbound: 15001,
		}
		n.Outbound = nil
	}
	n.Inbound[0].State = d.of("", "", "NotReady", "Ignored")
	if d.half() {
		n.Inbound[0].Tags["node"] = d.of("n1", "n2")
	}
	return dp
}

func (d *dice) top() *meshv1.TargetRef {
	switch d.IntN(5) {
	case 0:
		return nil
	case 1:
		return &meshv1.TargetRef{Kind: "Dataplane", Labels: map[string]string{"app": d.service()}}
	case 2:
		return &meshv1.TargetRef{Kind: "Dataplane", Name: d.of("p1", "p2")}
	case 3:
		return &meshv1.TargetRef{Kind: "MeshService", Name: d.service()}
	}
	return &meshv1.TargetRef{Kind: "Mesh"}
}

func (d *dice) to() *meshv1.TargetRef {
	switch d.IntN(5) {
	case 0:
		return &meshv1.TargetRef{Kind: "Mesh"}
	case 1:
		return &meshv1.TargetRef{Kind: "MeshMultiZoneService", Name: "multi"}
	case 2:
		return &meshv1.TargetRef{Kind: "MeshService", Labels: map[string]string{"team": "x"}}
	}
	return &meshv1.TargetRef{Kind: "MeshService", Name: d.service()}
}

func (d *dice) timeout() *mesh.Resource {
	conf := func() *meshv1.MeshTimeout_Conf {
		c := &meshv1.MeshTimeout_Conf{}
		if d.half() {
			c.ConnectionTimeout = d.duration()
		} else {
			c.Http = &meshv1.MeshTimeout_Http{RequestTimeout: d.duration()}
		}
		return c
	}
	spec := &meshv1.MeshTimeout{TargetRef: d.top()}
	switch d.IntN(3) {
	case 0:
		spec.Rules = []*meshv1.MeshTimeout_Rule{{Default: conf()}, {
			Default: &meshv1.MeshTimeout_Conf{Http: &meshv1.MeshTimeout_Http{RequestTimeout: d.duration()}},
			Matches: []*meshv1.Match{{SpiffeId: &meshv1.SpiffeIDMatch{
				Type:  "Exact",
				Value: "spiffe://default/a",
			}}},
		}}
	case 1:
		spec.To = []*meshv1.MeshTimeout_To{{
			TargetRef: &meshv1.TargetRef{Kind: "MeshHTTPRoute", Name: d.of("r1", "r2")},
			Default:   conf(),
		}}
	default:
		spec.To = []*meshv1.MeshTimeout_To{{
			TargetRef: d.to(),
			Default:   conf(),
		}, {
			TargetRef: d.to(),
			Default:   conf(),
		}}
	}
	return resource(mesh.KindMeshTimeout, "", d.of("t1", "t2", "t3"), spec)
}

// section is a top-level target of some inbounds.
func (d *dice) section() *meshv1.TargetRef {
	t := d.top()
	if t.GetKind() == "Dataplane" && d.half() {
		t.SectionName = d.of("http", "other")
	}
	return t
}

func (d *dice) match() []*meshv1.Match {
	return []*meshv1.Match{{SpiffeId: &meshv1.SpiffeIDMatch{
		Type:  d.of("Exact", "Prefix"),
		Value: "spiffe://default/" + d.of("a", "b"),
	}}}
}

func (d *dice) limit() *mesh.Resource {
	conf := func() *meshv1.MeshRateLimit_Conf {
		l := &meshv1.MeshRateLimit_Local{}
		if d.half() {
			l.Tcp = &meshv1.MeshRateLimit_Tcp{ConnectionRate: &meshv1.MeshRateLimit_Rate{
				Num:      proto.Uint32(5),
				Interval: d.duration(),
			}}
		} else if l.Http = (&meshv1.MeshRateLimit_Http{Disabled: proto.Bool(d.half())}); d.half() {
			l.Http.RequestRate = &meshv1.MeshRateLimit_Rate{Num: proto.Uint32(5), Interval: d.duration()}
		}
		return &meshv1.MeshRateLimit_Conf{Local: l}
	}
	spec := &meshv1.MeshRateLimit{TargetRef: d.section()}
	if d.half() {
		spec.From = []*meshv1.MeshRateLimit_From{{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
			Default:   conf(),
		}}
	} else {
		spec.Rules = []*meshv1.MeshRateLimit_Rule{{Default: conf()}, {
			Matches: d.match(),
			Default: &meshv1.MeshRateLimit_Conf{
				Local: &meshv1.MeshRateLimit_Local{
					Http: &meshv1.MeshRateLimit_Http{Disabled: proto.Bool(d.half())}}},
		}}
	}
	return resource(mesh.KindMeshRateLimit, "", d.of("l1", "l2"), spec)
}

func (d *dice) fault() *mesh.Resource {
	conf := &meshv1.MeshFaultInjection_Conf{
		Http: []*meshv1.MeshFaultInjection_Fault{{Delay: &meshv1.MeshFaultInjection_Delay{
			Value:      d.duration(),
			Percentage: &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: int64(d.IntN(3))}},
		}}}}
	spec := &meshv1.MeshFaultInjection{TargetRef: d.section()}
	switch d.IntN(3) {
	case 0:
		spec.From = []*meshv1.MeshFaultInjection_From{{
			TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: d.service()},
			Default:   conf,
		}}
	case 1:
		spec.Rules = []*meshv1.MeshFaultInjection_Rule{{Matches: d.match(), Default: conf}}
	default:
		spec.Rules = []*meshv1.MeshFaultInjection_Rule{{Default: conf}}
	}
	return resource(mesh.KindMeshFaultInjection, "", d.of("f1", "f2"), spec)
}

func (d *dice) permission() *mesh.Resource {
	spec := &meshv1.MeshTrafficPermission{TargetRef: d.top()}
	if d.half() {
		spec.From = []*meshv1.MeshTrafficPermission_From{{
			TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: d.service()},
			Default: &meshv1.MeshTrafficPermission_FromConf{Action: d.of("Allow", "Deny",
				"AllowWithShadowDeny")},
		}}
	} else {
		spec.Rules = []*meshv1.MeshTrafficPermission_Rule{{Default: &meshv1.MeshTrafficPermission_RuleConf{
			Allow: []*meshv1.Match{{SpiffeId: &meshv1.SpiffeIDMatch{
				Type:  d.of("Exact", "Prefix"),
				Value: "spiffe://default/" + d.service(),
			}}}}}}
	}
	return resource(mesh.KindMeshTrafficPermission, "", d.of("m1", "m2"), spec)
}

func (d *dice) route() *mesh.Resource {
	rule := &meshv1.MeshHTTPRoute_Rule{
		Matches: []*meshv1.MeshHTTPRoute_RouteMatch{{Path: &meshv1.MeshHTTPRoute_PathMatch{
			Type:  d.of("Exact", "PathPrefix"),
			Value: d.of("/", "/x", "/y"),
		}}},
		Default: &meshv1.MeshHTTPRoute_Conf{},
	}
	for range d.IntN(3) {
		port := uint32(8080)
		ref := &meshv1.BackendRef{Kind: "MeshService", Name: d.service(), Port: &port}
		if d.IntN(3) == 0 {
			ref = &meshv1.BackendRef{Kind: "MeshMultiZoneService", Name: "multi", Port: &port}
		}
		rule.Default.BackendRefs = append(rule.Default.BackendRefs, ref)
	}
	return resource(mesh.KindMeshHTTPRoute, "", d.of("r1", "r2"), &meshv1.MeshHTTPRoute{
		TargetRef: d.top(),
		To: []*meshv1.MeshHTTPRoute_To{{
			TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: d.service()},
			Rules:     []*meshv1.MeshHTTPRoute_Rule{rule},
		}},
	})
}
