package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// More defaults of a new Mesh than policy_test needs.
const moreDefaults = `
type: MeshCircuitBreaker
name: mesh-circuit-breaker-all-default
labels: {kuma.io/managed-by: meridian-defaults}
spec:
  to:
  - targetRef: {kind: Mesh}
    default:
      connectionLimits: {maxConnections: 1024, maxRetries: 1024}
      outlierDetection:
        interval: 1s
        maxEjectionPercent: 100
        detectors: {gatewayFailures: {consecutive: 3}, localOriginFailures: {consecutive: 3}}
---
type: MeshRetry
name: mesh-retry-all-default
labels: {kuma.io/managed-by: meridian-defaults}
spec:
  to:
  - targetRef: {kind: Mesh}
    default:
      tcp: {maxConnectAttempt: 5}
      http: {numRetries: 5, hostSelection: [{predicate: OmitPreviousHosts}]}
      grpc: {numRetries: 5}
---
`

// doc is a policy of a kind; spec is what stands in its braces.
func doc(kind mesh.Kind, name, spec string) string {
	return "type: " + string(kind) + "\nname: " + name + "\nspec: {" + spec + "}\n---\n"
}

// of are the policies of one kind that select web, ascending.
func of(t testing.TB, kind mesh.Kind, text string) []*mesh.Resource {
	return selecting(web(), slices.DeleteFunc(read(t, text),
		func(r *mesh.Resource) bool { return r.Key.Kind != kind }))
}

func confText(conf proto.Message) string {
	if conf == nil || !conf.ProtoReflect().IsValid() {
		return ""
	}
	text, err := codec.EncodeMessage(conf).MarshalJSON()
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(text), `"`, "")
}

var canaryRoute = Destination{Key: mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: "default", Name: "canary"}}

// What entries of "to" come to for the destination of the vectors, by kind.
func TestEffectiveConfs(t *testing.T) {
	toMesh := func(conf string) string { return "to: [{targetRef: {kind: Mesh}, default: {" + conf + "}}]" }
	toBackend := func(conf string) string {
		return "to: [{targetRef: {kind: MeshService, name: backend}, default: {" + conf + "}}]"
	}
	toRoute := func(conf string) string {
		return "to: [{targetRef: {kind: MeshHTTPRoute, name: canary}, default: {" + conf + "}}]"
	}
	tcp := func(rules string) string {
		return "to: [{targetRef: {kind: MeshService, name: backend}, rules: [" + rules + "]}]"
	}
	hash := func(name string) string { return "hashPolicies: [{type: Header, header: {name: " + name + "}}]" }
	detect := func(s string) string { return "outlierDetection: {detectors: {" + s + "}}" }
	const (
		cb = mesh.KindMeshCircuitBreaker
		rt = mesh.KindMeshRetry
		lb = mesh.KindMeshLoadBalancingStrategy
		tr = mesh.KindMeshTCPRoute
		hc = mesh.KindMeshHealthCheck
	)
	for _, tt := range []struct {
		name string
		kind mesh.Kind
		text string
		want string
	}{
		{"all refs of weight 0 stay refs", tr,
			doc(tr, "a", tcp("{default: {backendRefs: [{kind: MeshService, name: x, weight: 0}]}}")),
			`{backendRefs:[{kind:MeshService,name:x,weight:0}]}`},
		{"tcp: refs replace", tr,
			doc(tr, "zzz", tcp("{default: {backendRefs: [{kind: MeshService, name: x}, {kind: MeshService, "+
				"name: y}]}}")) +
				doc(tr, "aaa", tcp("{default: {backendRefs: [{kind: MeshService, name: z}]}}")),
			`{backendRefs:[{kind:MeshService,name:z}]}`},
		{"tcp: no rules mean the destination", tr,
			doc(tr, "zzz", tcp("{default: {backendRefs: [{kind: MeshService, name: x}]}}")) +
				doc(tr, "aaa", tcp("")), `{}`},
		{"tcp: another destination", tr,
			doc(tr, "a", "to: [{targetRef: {kind: MeshService, name: other}, rules: []}]"), ``},
		{"tcp: the port beats the service", tr,
			doc(tr, "a", tcp("{default: {backendRefs: [{kind: MeshService, name: x}]}}")) +
				doc(tr, "zzz",
					"to: [{targetRef: {kind: MeshService, name: backend, sectionName: main}, rules: "+
						"[{default: "+
						"{backendRefs: [{kind: MeshService, name: y}]}}]}]"),
			`{backendRefs:[{kind:MeshService,name:y}]}`},

		{"only the detector that is given", cb,
			moreDefaults + doc(cb, "a", toMesh(detect("totalFailures: {consecutive: 5}"))),

			`{connectionLimits:{maxConnections:1024,maxRetries:1024},` +
				`outlierDetection:{detectors:{totalFailures:{consecutive:5}}}}`},
		{"a person's limits beat the default's", cb,
			moreDefaults + doc(cb, "zzz",
				toMesh("connectionLimits: {maxConnections: 7, maxConnectionPools: 9}")),

			`{connectionLimits:{maxConnections:7,maxConnectionPools:9,maxRetries:1024},` +
				`outlierDetection:{interval:1s,maxEjectionPercent:100,` +
				`detectors:{gatewayFailures:{consecutive:3},localOriginFailures:{consecutive:3}}}}`},
		{"switched off", cb,
			moreDefaults + doc(cb, "a", toBackend("outlierDetection: {disabled: true}")),
			`{connectionLimits:{maxConnections:1024,maxRetries:1024},outlierDetection:{disabled:true}}`},
		{"people's detectors merge", cb,
			moreDefaults + doc(cb, "zzz", toMesh("connectionLimits: {maxRetries: 2}")) +
				doc(cb, "b", toMesh(detect("totalFailures: {consecutive: 5}"))) +
				doc(cb, "a", toMesh(detect("gatewayFailures: {consecutive: 2}"))),

			`{connectionLimits:{maxConnections:1024,maxRetries:2},` +
				`outlierDetection:{detectors:{totalFailures:{consecutive:5},` +
				`gatewayFailures:{consecutive:2}}}}`},
		{"disabled is overridden by false", cb,
			doc(cb, "zzz", toMesh("outlierDetection: {disabled: true}")) +
				doc(cb, "a", toMesh("outlierDetection: {disabled: false, detectors: {totalFailures: "+
					"{consecutive: 5}}}")),
			`{outlierDetection:{disabled:false,detectors:{totalFailures:{consecutive:5}}}}`},

		{"retryOn replaces, the rest stays", rt,
			moreDefaults + doc(rt, "a", toMesh("http: {retryOn: ['503', HttpMethodGet]}")),

			`{tcp:{maxConnectAttempt:5},http:{numRetries:5,retryOn:[503,HttpMethodGet],` +
				`hostSelection:[{predicate:OmitPreviousHosts}]},grpc:{numRetries:5}}`},
		{"the default", rt, moreDefaults,

			`{tcp:{maxConnectAttempt:5},http:{numRetries:5,` +
				`hostSelection:[{predicate:OmitPreviousHosts}]},grpc:{numRetries:5}}`},
		{"0 retries override", rt, moreDefaults + doc(rt, "zzz", toBackend("http: {numRetries: 0}")),

			`{tcp:{maxConnectAttempt:5},http:{numRetries:0,` +
				`hostSelection:[{predicate:OmitPreviousHosts}]},grpc:{numRetries:5}}`},

		{"tags without weights stay without", lb,
			doc(lb, "a", toMesh("localityAwareness: {localZone: {affinityTags: [{key: node}, "+
				"{key: rack}]}}")), `{localityAwareness:{localZone:{affinityTags:[{key:node},{key:rack}]}}}`},
		{"the destination's hash policies", lb,
			doc(lb, "a", toMesh(hash("x"))) + doc(lb, "zzz", toRoute(hash("y"))),
			`{hashPolicies:[{type:Header,header:{name:x}}]}`},
		{"an inert body stays", lb,
			doc(lb, "zzz", toMesh("loadBalancer: {type: RingHash, ringHash: {minRingSize: 5}}")) +
				doc(lb, "a", toMesh("loadBalancer: {type: RoundRobin}")),
			`{loadBalancer:{type:RoundRobin,ringHash:{minRingSize:5}}}`},

		{"health checks add up", hc,
			doc(hc, "zzz", toMesh("tcp: {send: Zm9v}, interval: 1s")) +
				doc(hc, "a", toBackend("http: {path: /x}")), `{interval:1s,http:{path:/x},tcp:{send:Zm9v}}`},
		{"labels mean every resource that carries them", hc,
			doc(hc, "a", "to: [{targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}, "+
				"default: {grpc: {}}}]"), `{grpc:{}}`},
		{"shadow says nothing", hc, "labels: {kuma.io/effect: shadow}\n" + doc(hc, "a", toMesh("grpc: {}")),
			``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := ForDestination(of(t, tt.kind, tt.text), backend)
			if got := confText(e.Conf); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	for _, tt := range []struct {
		name, text, want string
		kind             mesh.Kind
		about            bool
	}{
		{"the route's own",
			doc(lb, "a", toMesh(hash("x")+", loadBalancer: {type: Maglev}")) +
				doc(lb, "zzz", toRoute(hash("y"))),
			`{loadBalancer:{type:Maglev},hashPolicies:[{type:Header,header:{name:y}}]}`, lb, true},
		{"the service's is not the route's",
			doc(rt, "a", toBackend("http: {perTryTimeout: 1s}")) +
				doc(rt, "b", toRoute("http: {numRetries: 0}")), `{http:{numRetries:0}}`, rt, true},
		{"another route", doc(rt, "a", toMesh("http: {numRetries: 1}")) +
			doc(rt, "b", "to: [{targetRef: {kind: MeshHTTPRoute, name: other}, default: {http: "+
				"{numRetries: 0}}}]"), ``, rt, false},
		{"no route", doc(rt, "a", toMesh("http: {numRetries: 1}")), ``, rt, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, about := ForRoute(of(t, tt.kind, tt.text), canaryRoute)
			if got := confText(e.Conf); got != tt.want || about != tt.about {
				t.Errorf("got  %s %v\nwant %s %v", got, about, tt.want, tt.about)
			}
		})
	}
}

// Who set what: fields of the default that were replaced are not among them.
func TestProvenanceOfReplaced(t *testing.T) {
	const cb, tr = mesh.KindMeshCircuitBreaker, mesh.KindMeshTCPRoute
	e := ForDestination(of(t, cb,
		moreDefaults+doc(cb, "mine",
			"to: [{targetRef: {kind: Mesh}, default: {outlierDetection: {detectors: {totalFailures: "+
				"{consecutive: 5}}}}}]")), backend)
	got := map[string]string{}
	for path, o := range e.Fields {
		got[path] = o.Key.Name
	}
	want := map[string]string{"connectionLimits.maxConnections": "mesh-circuit-breaker-all-default",
		"connectionLimits.maxRetries":                          "mesh-circuit-breaker-all-default",
		"outlierDetection.detectors.totalFailures.consecutive": "mine"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	e = ForDestination(of(t, tr,
		doc(tr, "zzz", "to: [{targetRef: {kind: MeshService, name: backend}, rules: [{default: "+
			"{backendRefs: "+
			"[{kind: MeshService, name: x}]}}]}]")+
			doc(tr, "aaa", "to: [{targetRef: {kind: MeshService, name: other}, rules: []}, "+
				"{targetRef: {kind: "+
				"MeshService, name: backend}, rules: [{default: {backendRefs: [{kind: MeshService, "+
				"name: y}]}}]}]")), backend)
	if o := e.Fields["backendRefs"]; o.Key.Name != "aaa" || o.Rule != 1 {
		t.Errorf("backendRefs are said to come from %v", o)
	}
}

// What an inbound gets: rules are merged or not, as the kind has it.
func TestInboundConfs(t *testing.T) {
	const rl, cb = mesh.KindMeshRateLimit, mesh.KindMeshCircuitBreaker
	limit := func(n string) string {
		return "default: {local: {http: {requestRate: {num: " + n + ", interval: 10s}}}}"
	}
	sidecars, web := "targetRef: {kind: Mesh, proxyTypes: [Sidecar]}, ",
		"targetRef: {kind: Dataplane, labels: {app: web}}, "
	from := func(n string) string { return "from: [{targetRef: {kind: Mesh}, " + limit(n) + "}]" }
	exact, prefix := "{spiffeID: {type: Exact, value: spiffe://d/ns/web}}",
		"{spiffeID: {type: Prefix, value: spiffe://d/ns}}"
	rate := func(n string) string { return "{local:{http:{requestRate:{num:" + n + ",interval:10s}}}}" }
	for _, tt := range []struct {
		name string
		kind mesh.Kind
		text string
		want []string
	}{
		{"disabled above a limit", rl,
			doc(rl, "zzz", sidecars+from("5")) +
				doc(rl, "aaa", web+"rules: [{default: {local: {http: {disabled: true}}}}]"),
			[]string{"all: {local:{http:{disabled:true,requestRate:{num:5,interval:10s}}}}"}},
		{"exact, prefix, all", rl,
			doc(rl, "a", web+"rules: [{"+limit("5")+"}, {matches: ["+prefix+", "+exact+"], "+limit("50")+
				"}]"), []string{
				"Exact spiffe://d/ns/web: " + rate("50"), "Prefix spiffe://d/ns: " + rate("50"),
				"all: " + rate("5")}},
		{"callers' limits lie over the common one", rl,
			doc(rl, "zzz", sidecars+
				"from: [{targetRef: {kind: Mesh}, default: {local: {http: {onRateLimit: {status: "+
				"423}}, tcp: "+
				"{connectionRate: {num: 1, interval: 1s}}}}}]") +
				doc(rl, "a", web+"rules: [{matches: ["+exact+"], "+limit("50")+"}, {matches: ["+prefix+
					"], default: {local: {http: {disabled: true}}}}]"), []string{
				"Exact spiffe://d/ns/web: " +
					"{local:{http:{disabled:true,requestRate:{num:50,interval:10s}," +
					"onRateLimit:{status:423}},tcp:{connectionRate:{num:1,interval:1s}}}}",
				"Prefix spiffe://d/ns: " +
					"{local:{http:{disabled:true,onRateLimit:{status:423}}," +
					"tcp:{connectionRate:{num:1,interval:1s}}}}",
				"all: {local:{http:{onRateLimit:{status:423}},tcp:{connectionRate:{num:1,interval:1s}}}}"}},
		{"callers without a common limit", rl,
			doc(rl, "a", web+"rules: [{matches: ["+exact+"], "+limit("50")+"}]"),
			[]string{"Exact spiffe://d/ns/web: " + rate("50"), "all: "}},
		{"breakers have no matches", cb,
			doc(cb, "zzz", "rules: [{default: {connectionLimits: {maxConnections: 5}}}]") +
				doc(cb, "a", "from: [{targetRef: {kind: Mesh}, default: {connectionLimits: "+
					"{maxRequests: 7}}}]"),
			[]string{"all: {connectionLimits:{maxConnections:5,maxRequests:7}}"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := ForInbound(of(t, tt.kind, tt.text))
			var got []string
			for _, c := range in.Conditioned {
				got = append(got,
					c.Match.GetSpiffeId().GetType()+" "+c.Match.GetSpiffeId().GetValue()+": "+
						confText(c.Conf))
			}
			if diff := cmp.Diff(tt.want, append(got, "all: "+confText(in.CatchAll.Conf))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// A section is the name of an inbound, and its number only if it has no name.
func TestSectionOfNamedInbound(t *testing.T) {
	for section, want := range map[string][]string{"8000": nil, "http": {"http"}, "9000": {"9000"}} {
		p := read(t, doc(mesh.KindMeshRateLimit, "a",
			"targetRef: {kind: Dataplane, sectionName: '"+section+
				"'}, rules: [{default: {local: {http: {disabled: true}}}}]"))[0]
		sel, ok := HeadOf(p).Select(web())
		if ok != (want != nil) || !slices.Equal(sel.Inbounds, want) {
			t.Errorf("%s selects %v %v", section, sel, ok)
		}
	}
}

func TestFaults(t *testing.T) {
	const fi = mesh.KindMeshFaultInjection
	abort := func(code string) string {
		return "default: {http: [{abort: {httpStatus: " + code + ", percentage: 10}}]}"
	}
	exact, prefix, sni := "{spiffeID: {type: Exact, value: spiffe://d/ns/web}}",
		"{spiffeID: {type: Prefix, value: spiffe://d/ns}}", "{sni: {type: Exact, value: a}}"
	rules := func(s string) string { return "rules: [" + s + "]" }
	web := "targetRef: {kind: Dataplane, name: web}, "
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"two filters, zzz first",
			doc(fi, "aaa", rules("{"+abort("501")+"}")) + doc(fi, "zzz", rules("{"+abort("502")+"}")),
			[]string{"zzz 502", "aaa 501"}},
		{"specific callers first",
			doc(fi, "aaa", rules("{"+abort("501")+"}, {matches: ["+sni+"], "+abort("502")+"}, {matches: ["+
				prefix+"], "+abort("503")+"}")) +
				doc(fi, "zzz", rules("{matches: ["+exact+"], "+abort("504")+"}")), []string{
				"zzz Exact spiffe://d/ns/web 504", "aaa Prefix spiffe://d/ns 503", "aaa sni a 502",
				"aaa 501"}},
		{"one rule acts once",
			doc(fi, "a", rules("{matches: ["+exact+", "+prefix+", "+sni+", "+prefix+"], "+abort("501")+"}")),
			[]string{"a Prefix spiffe://d/ns 501", "a sni a 501"}},
		{"an empty match is everybody", doc(fi, "a", rules("{matches: ["+exact+", {}], "+abort("501")+"}")),
			[]string{"a 501"}},
		{"rules hide from", doc(fi, "a", rules("{default: {}}")) +
			doc(fi, "b", web+"from: [{targetRef: {kind: Mesh}, "+abort("501")+"}]"), []string{"a"}},
		{"the later entry's list replaces",
			doc(fi, "a", web+"from: [{targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}}, "+
				abort("501")+"}, {targetRef: {kind: Mesh}, "+abort("502")+"}]"),
			[]string{"a from [] not [] 502"}},
		{"the earlier entry for the others",
			doc(fi, "a", web+"from: [{targetRef: {kind: Mesh}, "+abort("501")+
				"}, {targetRef: {kind: MeshServiceSubset, name: web, tags: {v: '1'}}, "+abort("502")+
				"}, {targetRef: {kind: MeshService, name: x}, default: {}}]"), []string{
				"a from [] not [[{kuma.io/service web} {v 1}]] 501",
				"a from [{kuma.io/service web} {v 1}] not [] 502"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := Faults(of(t, fi, tt.text))
			var got []string
			codes := func(c *meshv1.MeshFaultInjection_Conf) (out string) {
				for _, h := range c.GetHttp() {
					out += " " + confText(h.GetAbort())[len("{httpStatus:"):][:3]
				}
				return out
			}
			for _, r := range f.Rules {
				line := r.Origin.Key.Name
				if id := r.Match.GetSpiffeId(); id != nil {
					line += " " + id.GetType() + " " + id.GetValue()
				}
				if r.Match.GetSni() != nil {
					line += " sni " + r.Match.GetSni().GetValue()
				}
				got = append(got, line+codes(r.Conf))
			}
			for _, c := range f.From {
				got = append(got,
					c.Origin.Key.Name+" from "+fmt.Sprint(c.All)+" not "+fmt.Sprint(c.Not)+codes(c.Conf))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || f.HasRules != (len(f.Rules) > 0) {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// The set that callerFaults makes says of every caller what the list says, in which the last entry
// that fits decides.
func TestCallerFaultsProperty(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	keys, values := []string{"kuma.io/service", "v"}, []string{"a", "b"}
	for range 3000 {
		spec := &meshv1.MeshFaultInjection{}
		for i := range 1 + rnd.IntN(5) {
			ref := &meshv1.TargetRef{Kind: "MeshSubset", Tags: map[string]string{}}
			for _, k := range keys {
				if rnd.IntN(2) == 0 {
					ref.Tags[k] = values[rnd.IntN(2)]
				}
			}
			conf := &meshv1.MeshFaultInjection_Conf{}
			if rnd.IntN(4) > 0 {
				conf.Http = []*meshv1.MeshFaultInjection_Fault{
					{Abort: &meshv1.MeshFaultInjection_Abort{HttpStatus: proto.Uint32(uint32(500 + i))}}}
			}
			spec.From = append(spec.From, &meshv1.MeshFaultInjection_From{TargetRef: ref, Default: conf})
		}
		set := Faults([]*mesh.Resource{{Spec: spec}})
		for _, service := range values {
			for _, v := range values {
				caller := []Tag{{keys[0], service}, {keys[1], v}}
				var want, got uint32
				for _, f := range spec.From {
					if tags, _ := callerTags(f.TargetRef); hasTags(caller, tags) && len(f.Default.Http) > 0 {
						want = f.Default.Http[0].Abort.GetHttpStatus()
					}
				}
				for _, c := range set.From {
					if c.Fits(caller) {
						if got != 0 {
							t.Fatalf("two fit %v of %v", caller, spec)
						}
						got = c.Conf.Http[0].Abort.GetHttpStatus()
					}
				}
				if got != want {
					t.Fatalf("%v of %v gets %d, want %d", caller, spec, got, want)
				}
			}
		}
	}
}

// For every kind: the order of arrival has no influence, merging again changes nothing, and nothing
// that is merged changes. Confs are filled by descriptor, so that a new field is in the test.
func TestMergeLawsOfKinds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(13, 14))
	tos := []*meshv1.TargetRef{{Kind: "Mesh"}, {
		Kind: "MeshService",
		Name: "backend",
	}, {
		Kind:        "MeshService",
		Name:        "backend",
		SectionName: "main",
	}, {
		Kind: "MeshService",
		Name: "other",
	}}
	tops := []*meshv1.TargetRef{nil, {Kind: "Dataplane"}, {Kind: "Dataplane", Name: "web"}}
	for _, info := range mesh.Kinds {
		if info.Policy == nil || !info.Policy.HasTo() || info.Kind == mesh.KindMeshHTTPRoute {
			continue
		}
		said := 0
		for range 150 {
			var policies []*mesh.Resource
			for i := range 1 + rnd.IntN(5) {
				spec := info.NewSpec().ProtoReflect()
				fields := spec.Descriptor().Fields()
				if top := tops[rnd.IntN(len(tops))]; top != nil {
					spec.Set(fields.ByName("target_ref"), protoreflect.ValueOfMessage(top.ProtoReflect()))
				}
				list := spec.Mutable(fields.ByName("to")).List()
				for range 1 + rnd.IntN(3) {
					entry := list.NewElement()
					fill(rnd, entry.Message(), 0)
					entry.Message().Set(entry.Message().Descriptor().Fields().ByName("target_ref"),
						protoreflect.ValueOfMessage(tos[rnd.IntN(len(tos))].ProtoReflect()))
					list.Append(entry)
				}
				r := &mesh.Resource{
					Key: mesh.Key{
						Kind: info.Kind,
						Mesh: "default",
						Zone: []string{"", "east"}[rnd.IntN(2)],
						Name: string(rune('a' + i)),
					},
					Spec: spec.Interface(),
				}
				if rnd.IntN(4) == 0 {
					r.Labels = map[string]string{mesh.LabelManagedBy: mesh.ManagedByDefaults}
				}
				policies = append(policies, r)
			}
			before := make([]proto.Message, len(policies))
			for i, p := range policies {
				before[i] = proto.Clone(p.Spec)
			}
			ascending := sorted(policies)
			first := ForDestination(ascending, backend)
			shuffled := slices.Clone(policies)
			rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			if diff := cmp.Diff(first, ForDestination(sorted(shuffled), backend),
				protocmp.Transform()); diff != "" {
				t.Fatalf("%s: another order gives\n%s", info.Kind, diff)
			}
			twice := ForDestination(slices.Concat(ascending, ascending), backend)
			if diff := cmp.Diff(first.Conf, twice.Conf, protocmp.Transform()); diff != "" {
				t.Fatalf("%s: each twice gives\n%s", info.Kind, diff)
			}
			for i, p := range policies {
				if !proto.Equal(before[i], p.Spec) {
					t.Fatalf("%s: merging changed %v to %v", info.Kind, before[i], p.Spec)
				}
			}
			if first.Conf != nil {
				said++
			}
			for _, o := range maps.All(first.Fields) {
				if !slices.Contains(first.Origins, o) {
					t.Fatalf("%s: a field comes from %v, which is not among %v", info.Kind, o, first.Origins)
				}
			}
		}
		if said < 50 {
			t.Errorf("%s: only %d of 150 say something", info.Kind, said)
		}
	}
}

// fill sets fields at random, by descriptor.
func fill(rnd *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if rnd.IntN(2) == 0 || depth > 5 ||
			fd.ContainingOneof() != nil && !fd.HasOptionalKeyword() &&
				m.WhichOneof(fd.ContainingOneof()) != nil {
			continue
		}
		value := func(fresh func() protoreflect.Value) protoreflect.Value {
			switch fd.Kind() {
			case protoreflect.MessageKind:
				v := fresh()
				fill(rnd, v.Message(), depth+1)
				return v
			case protoreflect.StringKind:
				return protoreflect.ValueOfString([]string{"a", "b", "c"}[rnd.IntN(3)])
			case protoreflect.BytesKind:
				return protoreflect.ValueOfBytes([]byte{byte(rnd.IntN(3))})
			case protoreflect.BoolKind:
				return protoreflect.ValueOfBool(rnd.IntN(2) == 0)
			case protoreflect.Uint32Kind:
				return protoreflect.ValueOfUint32(rnd.Uint32N(3))
			case protoreflect.Int32Kind:
				return protoreflect.ValueOfInt32(rnd.Int32N(3))
			case protoreflect.Int64Kind:
				return protoreflect.ValueOfInt64(rnd.Int64N(3))
			}
			panic("no value for " + fd.Kind().String())
		}
		switch {
		case fd.IsMap():
			m.Mutable(fd).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString("v"))
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range rnd.IntN(3) {
				list.Append(value(list.NewElement))
			}
		default:
			m.Set(fd, value(func() protoreflect.Value { return m.NewField(fd) }))
		}
	}
}
