package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// TestPlans: a stream that may follow plans sends what one sends that never does, response by
// response, and says the same of itself, whatever comes in the middle of a plan: other updates,
// answers in any order, rejections, other requests, a cut of the connection.
func TestPlans(t *testing.T) {
	t.Parallel()
	planned := 0
	for seed := range uint64(200) {
		p := newPair(t, seed)
		for step := range 100 {
			p.what = fmt.Sprintf("seed %d, step %d", seed, step)
			p.step()
			if t.Failed() {
				return
			}
		}
		p.quiet()
		planned += p.planned
	}
	if planned < 500 {
		t.Errorf("%d updates went by a plan: too few to show anything", planned)
	}
}

// pair is two streams to which the same happens.
type pair struct {
	t    *testing.T
	rnd  *rand.Rand
	what string
	// shared may follow plans, single never does.
	shared, single *state
	// open are the responses that the client has not answered.
	open []twice
	// held is what the client has, by type and name.
	held     [numTypes]map[string]*Resource
	world    planWorld
	revision uint64
	planned  int
}

type twice struct{ shared, single *response }

// planWorld is versions of what a table has; 0 is nothing.
type planWorld struct {
	versions [numTypes][5]int
	inbound  int
}

func newPair(t *testing.T, seed uint64) *pair {
	p := &pair{t: t, rnd: rand.New(rand.NewPCG(seed, 3))}
	for typ := range numTypes {
		for i := range p.world.versions[typ] {
			p.world.versions[typ][i] = 1
		}
	}
	p.connect()
	p.update()
	p.quiet()
	return p
}

// connect is a new connection of the client, which says what it holds.
func (p *pair) connect() {
	l := limits{1 << 20, 32 << 20}
	shared, single := newState(l), newState(l)
	single.sotw = true
	if p.shared != nil {
		shared.warming, single.warming = p.shared.warming.copy(), p.single.warming.copy()
	}
	p.shared, p.single, p.open = shared, single, nil
	for _, t := range []Type{TypeCluster, TypeEndpoint, TypeListener, TypeRoute, TypeSecret} {
		req := &discoveryv3.DeltaDiscoveryRequest{InitialResourceVersions: map[string]string{}}
		for name, r := range p.held[t] {
			req.InitialResourceVersions[name] = r.Version
		}
		p.held[t] = map[string]*Resource{}
		for name, version := range req.InitialResourceVersions {
			p.held[t][name] = &Resource{Type: t, Name: name, Version: version}
		}
		if t != TypeCluster && t != TypeListener {
			req.ResourceNamesSubscribe = planNames[:]
		}
		p.request(t, req)
	}
}

var planNames = [5]string{"a", "b", "c", "d", "e"}

func (p *pair) request(t Type, req *discoveryv3.DeltaDiscoveryRequest) {
	p.shared.request(t, proto.CloneOf(req))
	p.single.request(t, proto.CloneOf(req))
}

// update changes the world and tells both streams.
func (p *pair) update() {
	for range 1 + p.rnd.IntN(3) {
		of := &p.world.versions[p.rnd.IntN(int(numTypes))]
		i := p.rnd.IntN(len(of))
		switch p.rnd.IntN(30) {
		case 0:
			of[i] = 0
		case 1:
			p.world.inbound++
		default:
			of[i]++
		}
	}
	p.revision++
	u := Update{Table: p.table(), Revision: p.revision, Committed: time.Unix(int64(p.revision), 0)}
	p.shared.update(u)
	p.single.update(u)
	if p.shared.move.plan != nil {
		p.planned++
	}
}

// table is the world's. Segments whose content is the same are the same.
func (p *pair) table() *Table {
	var list []*Resource
	for t, versions := range p.world.versions {
		for i, v := range versions {
			if v > 0 {
				list = append(list, planResource(p.t, Type(t), planNames[i], v))
			}
		}
	}
	inbound := []*Resource{planResource(p.t, TypeListener, "inbound", p.world.inbound)}
	table := &Table{Segments: []*Segment{NewSegment(list), NewSegment(inbound)}}
	if old := p.shared.desired; old != nil {
		for i, s := range old.Segments {
			if table.Segments[i].diff(s).Empty() {
				table.Segments[i] = s
			}
		}
	}
	return table
}

func planResource(t *testing.T, typ Type, name string, version int) *Resource {
	body := []byte(fmt.Sprint(typ, version))
	if typ == TypeCluster {
		c := &clusterv3.Cluster{Name: name, AltStatName: fmt.Sprint(version)}
		if name != "e" { // which has its endpoints in itself
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		}
		var err error
		if body, err = proto.Marshal(c); err != nil {
			t.Fatal(err)
		}
	}
	return NewResource(typ, name, body)
}

// send takes up to n responses of each stream, which must be the same.
func (p *pair) send(n int) {
	for range n {
		a, b := p.shared.next(time.Unix(0, 0)), p.single.next(time.Unix(0, 0))
		if got, want := brief(a), brief(b); !slices.Equal(got, want) {
			p.t.Fatalf("%s: the next response is %v, want %v", p.what, got, want)
		}
		if a == nil {
			return
		}
		if a.size() != b.size() {
			p.t.Fatalf("%s: a response of %d bytes counts as %d", p.what, b.size(), a.size())
		}
		p.decode(a)
		p.open = append(p.open, twice{a, b})
	}
}

// brief is what a response says, in the order of names.
func brief(r *response) []string {
	if r == nil {
		return nil
	}
	out := []string{r.typ.String(), fmt.Sprint("since ", r.since, " of ", r.revision, r.committed)}
	for _, res := range r.resources {
		out = append(out, res.Name+" "+res.Version)
	}
	for _, name := range r.removed {
		out = append(out, name+" removed")
	}
	slices.Sort(out[2:])
	return out
}

// decode checks what goes over the wire.
func (p *pair) decode(r *response) {
	var got discoveryv3.DeltaDiscoveryResponse
	if err := proto.Unmarshal(r.encode().Materialize(), &got); err != nil {
		p.t.Fatalf("%s: %v", p.what, err)
	}
	var names []string
	for _, res := range got.GetResources() {
		names = append(names, res.GetName()+" "+res.GetVersion())
	}
	var all []string
	for _, res := range r.resources {
		all = append(all, res.Name+" "+res.Version)
	}
	if got.GetTypeUrl() != r.typ.URL() || got.GetNonce() != r.nonce || !slices.Equal(names, all) {
		p.t.Fatalf("%s: %v is on the wire, want %v of type %s, nonce %s", p.what, &got, all, r.typ, r.nonce)
	}
}

// answer answers one of the open responses; bad is a resource to reject, of those it has.
func (p *pair) answer(i int, reject bool) {
	r := p.open[i]
	t := r.shared.typ
	// A client works in order: with this one it has taken those of the type before.
	var rest []twice
	for at, o := range p.open {
		switch {
		case at > i || o.shared.typ != t:
			rest = append(rest, o)
		case at < i || !reject || len(o.shared.resources) == 0:
			for _, res := range o.shared.resources {
				p.held[t][res.Name] = res
			}
			for _, name := range o.shared.removed {
				delete(p.held[t], name)
			}
		}
	}
	p.open = rest
	if !reject || len(r.shared.resources) == 0 {
		take := func() *response { return p.shared.acknowledge(t, []byte(r.shared.nonce)) }
		if p.rnd.IntN(6) == 0 {
			// As a gRPC client whose other wishes in the same request wait.
			req := &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.shared.nonce}
			take = func() *response { return p.shared.answer(&p.shared.types[t], req) }
		}
		if take() != r.shared {
			p.t.Fatalf("%s: the answer to %v is taken for another", p.what, brief(r.shared))
		}
		p.single.request(t, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.single.nonce})
		return
	}
	culprit := r.shared.resources[p.rnd.IntN(len(r.shared.resources))]
	bad := &rpcstatus.Status{Message: culprit.Name + " is bad"}
	p.shared.request(t, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.shared.nonce, ErrorDetail: bad})
	p.single.request(t, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.single.nonce, ErrorDetail: bad})
}

func (p *pair) step() {
	switch n := p.rnd.IntN(40); {
	case n < 6:
		if p.rnd.IntN(2) == 0 {
			p.quiet()
		}
		p.update()
	case n < 14:
		p.send(1)
	case n < 18:
		p.send(8)
	case n < 28 && len(p.open) > 0:
		p.answer(p.rnd.IntN(len(p.open)), p.rnd.IntN(12) == 0)
	case n < 33:
		p.quiet()
	case n == 33:
		t := []Type{TypeEndpoint, TypeRoute, TypeSecret}[p.rnd.IntN(3)]
		p.request(t, &discoveryv3.DeltaDiscoveryRequest{
			ResourceNamesSubscribe: []string{planNames[p.rnd.IntN(len(planNames))]},
		})
	case n == 34:
		t := []Type{TypeEndpoint, TypeRoute, TypeSecret}[p.rnd.IntN(3)]
		name := planNames[p.rnd.IntN(len(planNames))]
		delete(p.held[t], name)
		p.request(t, &discoveryv3.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{name}})
		p.request(t, &discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{name}})
	case n == 35:
		t := Types[p.rnd.IntN(len(Types))]
		p.shared.acknowledge(t, []byte("stale"))
		p.single.request(t, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: "stale"})
	case n == 36:
		p.connect()
		p.update()
	case n == 37:
		if diff := cmp.Diff(summary(p.single), summary(p.shared)); diff != "" {
			p.t.Fatalf("%s: what the streams say of their resources differs: %s", p.what, diff)
		}
	}
	p.same()
}

// summary is a view in text.
func summary(s *state) []string {
	var out []string
	for _, v := range s.view() {
		out = append(out, fmt.Sprint(v.Type, " ", v.Name, " ", v.Acked, " ", v.Status, " ", v.Reason))
	}
	return out
}

// same compares what both say of themselves.
func (p *pair) same() {
	a, aOK := p.shared.answered()
	b, bOK := p.single.answered()
	if a != b || aOK != bOK {
		p.t.Fatalf("%s: answered are %d, %v; want %d, %v", p.what, a, aOK, b, bOK)
	}
	if a, b := p.shared.configured(), p.single.configured(); a != b {
		p.t.Fatalf("%s: configured is %v, want %v", p.what, a, b)
	}
	if a, b := p.shared.unanswered(), p.single.unanswered(); a != b {
		p.t.Fatalf("%s: %d bytes are unanswered, want %d", p.what, a, b)
	}
	if a, b := p.shared.rejections(), p.single.rejections(); len(a)+len(b) > 0 && !reflect.DeepEqual(a, b) {
		p.t.Fatalf("%s: the rejections are %v, want %v", p.what, a, b)
	}
	if a, b := p.shared.warming.all(), p.single.warming.all(); !maps.Equal(a, b) {
		p.t.Fatalf("%s: %v warm, want %v", p.what, a, b)
	}
}

// quiet answers until nothing is left to send. The client then has its table, but for what it rejects.
func (p *pair) quiet() {
	for {
		p.send(8)
		p.same()
		if len(p.open) == 0 {
			break
		}
		p.answer(p.rnd.IntN(len(p.open)), false)
	}
	rejected := map[string]bool{}
	for _, r := range p.shared.rejections() {
		rejected[r.Type.String()+r.Resource] = true
	}
	for _, t := range Types {
		for r := range p.shared.desired.All(t) {
			if held := p.held[t][r.Name]; (held == nil || held.Version != r.Version) &&
				!rejected[t.String()+r.Name] {
				p.t.Fatalf("%s: the client has %v of the %s %s", p.what, held, t, r.Name)
			}
		}
	}
	if p.shared.move.plan != nil {
		p.t.Fatalf("%s: the stream is on a plan when everything is answered", p.what)
	}
}
