package xds

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// envoy takes what it is offered as an Envoy does: of what it rejects it keeps what it had.
type envoy struct {
	r       *running
	watch   delta.Watch
	rejects func(*delta.Resource) bool
	has     map[resourceName]*delta.Resource
	nacks   int
}

func (r *running) envoy(key mesh.Key, rejects func(*delta.Resource) bool) *envoy {
	r.t.Helper()
	p := &envoy{
		r:       r,
		watch:   r.e.Open(delta.OpenRequest{Proxy: key}),
		rejects: rejects,
		has:     map[resourceName]*delta.Resource{},
	}
	r.t.Cleanup(p.watch.Close)
	return p
}

// take answers an update if there is one.
func (p *envoy) take() bool {
	p.r.t.Helper()
	u, ok, err := p.watch.Next()
	if err != nil {
		p.r.t.Fatal(err)
	}
	if !ok {
		return false
	}
	var rejections []delta.Rejection
	there := map[resourceName]bool{}
	for _, typ := range delta.Types {
		for res := range u.Table.All(typ) {
			n := resourceName{typ, res.Name}
			there[n] = true
			switch held := p.has[n]; {
			case held != nil && held.Version == res.Version:
			case p.rejects != nil && p.rejects(res):
				p.nacks++
				rejections = append(rejections, delta.Rejection{
					Type:     typ,
					Resource: res.Name,
					Cause:    res.Cause,
					Reason:   "no",
					Revision: u.Revision,
					Content:  res,
					Held:     held,
				})
			default:
				p.has[n] = res
			}
		}
	}
	for n := range p.has {
		if !there[n] {
			delete(p.has, n)
		}
	}
	p.watch.Ack(u.Revision, rejections)
	return true
}

// settle lets Envoys answer until ok.
func (r *running) settle(what string, ok func(Progress) bool, envoys ...*envoy) Progress {
	r.t.Helper()
	for {
		changed := r.e.ProgressChanged()
		for _, p := range envoys {
			for p.take() {
			}
		}
		if p := r.e.Progress(); ok(p) {
			return p
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			r.t.Fatalf("waited for %s: progress is %+v", what, r.e.Progress())
		}
	}
}

func (p *envoy) cluster(name string) *clusterv3.Cluster {
	p.r.t.Helper()
	res := p.has[resourceName{delta.TypeCluster, name}]
	if res == nil {
		return nil
	}
	out := &clusterv3.Cluster{}
	if err := proto.Unmarshal(res.Body, out); err != nil {
		p.r.t.Fatal(err)
	}
	return out
}

func (p *envoy) connectTimeout() time.Duration {
	c := p.cluster(apiCluster)
	if c == nil {
		return 0
	}
	return c.GetConnectTimeout().AsDuration()
}

const apiCluster = "kri_msvc_default_east__api_http"

// connectsIn says that a cluster has a connect timeout.
func connectsIn(d time.Duration) func(*delta.Resource) bool {
	return func(res *delta.Resource) bool {
		c := &clusterv3.Cluster{}
		return res.Type == delta.TypeCluster && proto.Unmarshal(res.Body, c) == nil &&
			c.GetConnectTimeout().AsDuration() == d
	}
}

// connects is a MeshTimeout for all destinations.
func connects(t *testing.T, name string, d time.Duration) *mesh.Resource {
	return policies(t,
		fmt.Sprintf(`{type: MeshTimeout, mesh: default, name: %s, spec: {targetRef: {kind: Mesh},
		to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: %s}}]}}`, name, d))[0]
}

// callers are proxies that call api.
func callers(t *testing.T, r *running, n int) []mesh.Key {
	t.Helper()
	r.put(testMesh(""), testService(testZone, "api", 8080), testDataplane("api-1", "10.0.0.1", "api", 8080))
	var out []mesh.Key
	for i := range n {
		dp := testDataplane(fmt.Sprintf("web-%d", i), fmt.Sprintf("10.0.1.%d", i), "web", 8080, "api")
		r.put(dp)
		out = append(out, dp.Key)
	}
	return out
}

func answered(rev uint64) func(Progress) bool {
	return func(p Progress) bool { return p.Revision >= rev && p.PendingCount == 0 }
}

// TestRejectedPolicyIsHeld: what a proxy rejected is not offered to one that starts; that one gets
// the policy as it was, progress says so, later policies go through, and a mended policy acts at
// once.
func TestRejectedPolicyIsHeld(t *testing.T) {
	t.Parallel()
	r := start(t)
	keys := callers(t, r, 3)
	bad := connectsIn(7 * time.Second)
	web0, web1 := r.envoy(keys[0], bad), r.envoy(keys[1], bad)
	both := []*envoy{web0, web1}
	r.settle("the first policy", answered(r.put(connects(t, "t", time.Second))), both...)

	rev := r.put(connects(t, "t", 7*time.Second))
	held := func(p Progress) bool {
		return p.Revision >= rev && p.PendingCount == 0 && len(p.Rejections) == 2 &&
			p.Rejections[0].GetFormerProxies() == 2
	}
	p := r.settle("the hold", held, both...)
	for i, got := range p.Rejections {
		if got.GetCause().GetName() != "t" || got.GetProxy().GetName() != keys[i].Name ||
			got.GetRevision() != rev || got.GetResource() != apiCluster || got.GetReason() != "no" ||
			time.Since(got.GetFormerSince().AsTime()) > time.Minute {
			t.Errorf("rejection %v", got)
		}
	}
	if c, state := r.e.Change(
		rev,
	); state != store.RevisionKnown || c.Rejected != 2 ||
		len(c.Rejections) != 2 {
		t.Errorf("change %+v", c)
	}

	web2 := r.envoy(keys[2], bad)
	all := append(both, web2)
	r.settle("the new proxy", func(p Progress) bool {
		return p.PendingCount == 0 && p.Online == 3 && p.Rejections[0].GetFormerProxies() == 3
	}, all...)
	if web2.nacks > 0 || web2.connectTimeout() != time.Second {
		t.Errorf("the new proxy rejected %d times and connects in %v", web2.nacks, web2.connectTimeout())
	}

	// What another policy says of the same destination acts.
	rev = r.put(
		policies(t, `{type: MeshCircuitBreaker, mesh: default, name: b, spec: {targetRef: {kind: Mesh},
		to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxConnections: 42}}}]}}`)[0],
	)
	r.settle("the later policy", answered(rev), all...)
	for _, w := range all {
		if n := w.cluster(apiCluster).GetCircuitBreakers().GetThresholds()[0].GetMaxConnections().
			GetValue(); n != 42 ||
			w.connectTimeout() != time.Second {
			t.Errorf("%d connections, %v", n, w.connectTimeout())
		}
	}

	rev = r.put(connects(t, "t", 2*time.Second))
	p = r.settle("the mended policy", answered(rev), all...)
	if len(p.Rejections) > 0 {
		t.Errorf("rejections %v", p.Rejections)
	}
	for _, w := range all {
		if w.connectTimeout() != 2*time.Second {
			t.Errorf("connects in %v", w.connectTimeout())
		}
	}
	if n := web0.nacks + web1.nacks; n != 2 {
		t.Errorf("%d NACKs", n)
	}
}

// TestRejectedNewPolicyIsLeftOut: one that was never accepted counts as none, and is in force
// nowhere until it is changed; deleting it ends the hold.
func TestRejectedNewPolicyIsLeftOut(t *testing.T) {
	t.Parallel()
	r := start(t)
	keys := callers(t, r, 2)
	web := r.envoy(keys[0], connectsIn(7*time.Second))
	policy := connects(t, "t", 7*time.Second)
	r.put(policy)
	held := func(p Progress) bool {
		return p.PendingCount == 0 && len(p.Rejections) == 1 && p.Rejections[0].GetFormerProxies() == 1
	}
	r.settle("the hold", held, web)
	if web.connectTimeout() != 5*time.Second {
		t.Errorf("connects in %v, want the default", web.connectTimeout())
	}
	if _, err := r.store.Commit(r.ctx, store.Txn{Author: "test", Ops: []store.Op{
		store.Delete{Key: policy.Key},
	}}); err != nil {
		t.Fatal(err)
	}
	r.settle("the end of the hold", func(p Progress) bool { return len(p.Rejections) == 0 }, web)
}

// TestAcceptedElsewhereStays: a content that another proxy accepts is not held back, in whatever
// order they answer.
func TestAcceptedElsewhereStays(t *testing.T) {
	t.Parallel()
	r := start(t)
	keys := callers(t, r, 2)
	old, new := r.envoy(keys[0], connectsIn(7*time.Second)), r.envoy(keys[1], nil)
	r.settle("the first policy", answered(r.put(connects(t, "t", time.Second))), old, new)
	rev := r.put(connects(t, "t", 7*time.Second))
	r.settle(
		"the rejection",
		func(p Progress) bool { return p.Revision >= rev && len(p.Rejections) == 1 },
		old,
	)
	p := r.settle("the other answer", answered(rev), new)
	if len(p.Rejections) != 1 || p.Rejections[0].GetFormerSince() != nil {
		t.Errorf("rejections %v", p.Rejections)
	}
	if old.connectTimeout() != time.Second || new.connectTimeout() != 7*time.Second {
		t.Errorf("%v and %v", old.connectTimeout(), new.connectTimeout())
	}
}

// TestSilentProxyDelaysNoHold: a proxy that never answers does not keep others from being given what is good.
func TestSilentProxyDelaysNoHold(t *testing.T) {
	t.Parallel()
	r := start(t)
	keys := callers(t, r, 2)
	web, silent := r.envoy(keys[0], connectsIn(7*time.Second)), r.envoy(keys[1], nil)
	r.settle("the first policy", answered(r.put(connects(t, "t", time.Second))), web, silent)
	rev := r.put(connects(t, "t", 7*time.Second))
	r.settle("the hold", func(p Progress) bool {
		return p.Revision >= rev && len(p.Rejections) == 1 && p.Rejections[0].GetFormerSince() != nil
	}, web)
}

// TestEarlierPolicyIsBlamedToo: if the policy changed last is not the reason, the one before it is held too.
func TestEarlierPolicyIsBlamedToo(t *testing.T) {
	t.Parallel()
	r := start(t)
	keys := callers(t, r, 1)
	web := r.envoy(keys[0], connectsIn(7*time.Second))
	r.put(connects(t, "t", 7*time.Second), policies(t, `{type: MeshCircuitBreaker, mesh: default, name: b,
		spec: {targetRef: {kind: Mesh}, to: [{targetRef: {kind: Mesh},
			default: {connectionLimits: {maxConnections: 42}}}]}}`)[0])
	r.put(policies(t, `{type: MeshCircuitBreaker, mesh: default, name: b, spec: {targetRef: {kind: Mesh},
		to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxConnections: 43}}}]}}`)[0])
	r.settle("a configuration", func(p Progress) bool {
		return p.PendingCount == 0 && web.connectTimeout() == 5*time.Second
	}, web)
}

// TestRejectedEndpointsAreReplaced: where no policy is the cause, a proxy that starts gets what others have.
func TestRejectedEndpointsAreReplaced(t *testing.T) {
	t.Parallel()
	r := start(t)
	keys := callers(t, r, 2)
	bad := func(res *delta.Resource) bool {
		return res.Type == delta.TypeEndpoint && strings.Contains(string(res.Body), "10.0.0.66")
	}
	web := r.envoy(keys[0], bad)
	r.settle("the endpoints", func(p Progress) bool { return p.Online == 1 && p.PendingCount == 0 }, web)
	name := resourceName{delta.TypeEndpoint, apiCluster}
	good := web.has[name]
	rev := r.put(testDataplane("api-2", "10.0.0.66", "api", 8080))
	p := r.settle("the replacement", func(p Progress) bool {
		return p.Revision >= rev && p.PendingCount == 0 && len(p.Rejections) == 1 &&
			p.Rejections[0].GetFormerProxies() == 1
	}, web)
	if p.Rejections[0].GetCause().GetName() != "api" {
		t.Errorf("rejections %v", p.Rejections)
	}
	late := r.envoy(keys[1], bad)
	r.settle("the new proxy", func(p Progress) bool {
		return p.Online == 2 && p.PendingCount == 0 && p.Rejections[0].GetFormerProxies() == 2
	}, web, late)
	if late.nacks > 0 || good == nil || late.has[name].Version != good.Version {
		t.Errorf("the new proxy rejected %d times and has %v", late.nacks, late.has[name])
	}
	// Without the instance there is nothing to reject.
	rev = r.put(testDataplane("api-2", "10.0.0.67", "api", 8080))
	r.settle("the mended endpoints", answered(rev), web, late)
	if !strings.Contains(string(late.has[name].Body), "10.0.0.67") {
		t.Error("the new endpoints did not come")
	}
}

// TestRejectedInboundIsHeldForItsProxy: a policy of inbounds that one proxy rejects is as it was
// for that proxy alone.
func TestRejectedInboundIsHeldForItsProxy(t *testing.T) {
	t.Parallel()
	r := start(t)
	keys := callers(t, r, 2)
	limit := func(n int) *mesh.Resource {
		return policies(t, fmt.Sprintf(`{type: MeshRateLimit, mesh: default, name: l, spec: {
			targetRef: {kind: Mesh, proxyTypes: [Sidecar]}, rules: [{default: {local: {http: `+
			`{requestRate: {num: %d, interval: 1s}}}}}]}}`, n))[0]
	}
	inbound := resourceName{delta.TypeListener, "self_inbound_dp_http"}
	var first string
	bad := func(res *delta.Resource) bool {
		return res.Name == inbound.name && res.Type == inbound.typ && first != "" && res.Version != first
	}
	picky, other := r.envoy(keys[0], bad), r.envoy(keys[1], nil)
	r.settle("the first policy", answered(r.put(limit(100))), picky, other)
	first = picky.has[inbound].Version
	before := other.has[inbound].Version
	rev := r.put(limit(7))
	r.settle("the hold", func(p Progress) bool {
		return p.Revision >= rev && p.PendingCount == 0 && len(p.Rejections) == 1 &&
			p.Rejections[0].GetFormerProxies() == 1
	}, picky, other)
	if other.has[inbound].Version == before {
		t.Error("the other proxy did not get the policy")
	}
	again := r.envoy(keys[0], bad)
	r.settle(
		"the restart",
		func(p Progress) bool { return p.Online == 3 && p.PendingCount == 0 },
		picky,
		other,
		again,
	)
	if again.nacks > 0 || again.has[inbound] == nil || again.has[inbound].Version != first {
		t.Errorf("after its restart the proxy rejected %d times and has %v", again.nacks, again.has[inbound])
	}
}

// TestLastGoodByChance: whatever is changed, rejected and mended in any order, a proxy that starts
// is left with a configuration that it accepts whole, and once all is mended every proxy has what a
// new engine would give.
func TestLastGoodByChance(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 9))
			r := start(t)
			keys := callers(t, r, 4)
			bad := func(res *delta.Resource) bool {
				return connectsIn(7*time.Second)(res) || connectsIn(8*time.Second)(res) ||
					res.Type == delta.TypeEndpoint && strings.Contains(string(res.Body), "10.0.0.66")
			}
			all := []*envoy{r.envoy(keys[0], bad), r.envoy(keys[1], bad)}
			for range 15 {
				var rev uint64
				switch n := rng.IntN(10); {
				case n < 5: // the last of three policies decides
					rev = r.put(connects(t, fmt.Sprintf("t%d", rng.IntN(3)),
						time.Duration(1+rng.IntN(8))*time.Second))
				case n < 7:
					rev = r.put(testDataplane("api-2", fmt.Sprintf("10.0.0.%d", 65+rng.IntN(2)), "api", 8080))
				case n < 9 && len(all) < 8:
					late := r.envoy(keys[rng.IntN(4)], bad)
					all = append(all, late)
					r.settle("the new proxy", func(p Progress) bool {
						return p.Online == len(all) && p.PendingCount == 0 && late.whole()
					}, all...)
				default:
					rev = r.put(testMesh(""))
				}
				r.settle("the change", answered(rev), all...)
			}

			r.put(connects(t, "t0", time.Second), connects(t, "t1", 2*time.Second))
			r.put(testDataplane("api-2", "10.0.0.65", "api", 8080))
			p := r.settle("the mended policies", answered(r.put(connects(t, "t2", 3*time.Second))), all...)
			if len(p.Rejections) > 0 {
				t.Errorf("rejections %v", p.Rejections)
			}
			fresh := New(Config{Zone: testZone, Replica: r.e.replica})
			ended := make(chan struct{})
			ctx, cancel := context.WithCancel(r.ctx)
			go func() { defer close(ended); _ = fresh.Run(ctx) }()
			defer func() { cancel(); <-ended }()
			for _, w := range all {
				f := fresh.Open(delta.OpenRequest{Proxy: w.watch.(*watch).key})
				u, err := next(r.ctx, fresh, f)
				if err != nil {
					t.Fatal(err)
				}
				for _, typ := range delta.Types {
					for res := range u.Table.All(typ) {
						if has := w.has[resourceName{typ, res.Name}]; has == nil ||
							has.Version != res.Version {
							t.Errorf("%s %s is not what a new engine gives", typ, res.Name)
						}
					}
				}
				f.Close()
			}
		})
	}
}

// whole says that the Envoy has all that it should have, if maybe in a former content.
func (p *envoy) whole() bool {
	t := p.watch.(*watch)
	p.r.e.mu.Lock()
	table := t.latest
	p.r.e.mu.Unlock()
	if table == nil {
		return false
	}
	for _, typ := range delta.Types {
		for res := range table.All(typ) {
			if p.has[resourceName{typ, res.Name}] == nil {
				return false
			}
		}
	}
	return true
}
