package kdsrpc

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestPoliciesGoDownAndServicesUpAndAcross(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	east, west := newNode(t), newNode(t)
	g.commit(t, store.Put{Resource: timeout("default", "", "before", 1)})
	run(t, g.client("east", east, nil).Run)
	run(t, g.client("west", west, nil).Run)
	east.awaitKey(t, timeout("default", "", "before", 1).Key)

	rev := g.commit(t, store.Put{Resource: timeout("default", "", "after", 2)})
	got := west.awaitKey(t, timeout("default", "", "after", 2).Key)
	if got.OriginRevision != rev {
		t.Errorf("origin revision %d, want %d", got.OriginRevision, rev)
	}
	east.commit(t, store.Put{Resource: service("default", "east", "backend")},
		store.PutStatus{Key: service("default", "east", "backend").Key, Status: &meshv1.MeshServiceStatus{}})
	g.awaitKey(t, service("default", "east", "backend").Key)
	west.awaitKey(t, service("default", "east", "backend").Key)

	latest := g.replica.View().Revision()
	for _, zone := range []string{"east", "west"} {
		z := g.awaitZone(t, zone, "applied", func(z ZoneState) bool {
			return z.Applied >= latest && z.State == Online && z.Progress.GetApplied() >= latest
		})
		if !z.DigestsEqual || z.LagRevisions != 0 {
			t.Errorf("%+v", z)
		}
		if z.Progress == nil || z.Progress.GetAnswered() != z.Progress.GetApplied() {
			t.Errorf("progress %v", z.Progress)
		}
	}
	if _, own := west.replica.View().Get(service("default", "east", "backend").Key); !own {
		t.Error("west lost the service of east")
	}
	g.commit(t, store.Delete{Key: timeout("default", "", "before", 1).Key})
	east.await(t, "deletion", func(v replica.View) bool {
		_, ok := v.Get(timeout("default", "", "before", 1).Key)
		return !ok
	})
}

func TestReconnectWithNothingChangedCostsUnderOnePercent(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	g.commit(t, manyTimeouts(2000)...)
	east := newNode(t)
	run(t, g.client("east", east, nil).Run)
	full := g.awaitZone(t, "east", "the snapshot",
		func(z ZoneState) bool { return z.Applied == 1 && z.State == Online })
	if full.Resumed || full.ResetReason != kds.ResetFirst {
		t.Fatalf("first connection: %+v", full)
	}
	g.ln.cut()
	again := g.awaitZone(t, "east", "the resumption",
		func(z ZoneState) bool { return z.Resumed && z.State == Online })
	// One change shows that the stream flows, and ends what a resumption can cost.
	rev := g.commit(t, store.Put{Resource: timeout("default", "", "policy-0007", 99)})
	again = g.awaitZone(t, "east", "a change", func(z ZoneState) bool { return z.Applied >= rev })
	if again.ConfigBytes*100 >= full.ConfigBytes {
		t.Errorf("resumed with %d bytes, the snapshot took %d", again.ConfigBytes, full.ConfigBytes)
	}
	t.Logf("snapshot %d bytes, resumption and one change %d bytes", full.ConfigBytes, again.ConfigBytes)
}

func TestGlobalRestartAndZoneRestartResume(t *testing.T) {
	cert := selfSigned(t)
	g := startGlobal(t, globalOptions{cert: cert})
	g.commit(t, manyTimeouts(50)...)
	east := newNode(t)
	c := g.client("east", east, nil)
	stop := run(t, c.Run)
	g.awaitZone(t, "east", "applied", func(z ZoneState) bool { return z.Applied == 1 })
	g.stop()
	g.commit(t, store.Put{Resource: timeout("default", "", "while-away", 1)},
		store.Delete{Key: timeout("default", "", "policy-0001", 1).Key})
	g2 := startGlobal(t, globalOptions{node: g.node, addr: g.addr, cert: cert})
	east.awaitKey(t, timeout("default", "", "while-away", 1).Key)
	if _, ok := east.replica.View().Get(timeout("default", "", "policy-0001", 1).Key); ok {
		t.Error("the delta was not atomic")
	}
	z := g2.awaitZone(t, "east", "applied",
		func(z ZoneState) bool { return z.Applied == 2 && z.State == Online })
	if !z.Resumed {
		t.Errorf("not resumed: %+v", z)
	}
	stop()
	g2.commit(t, store.Put{Resource: timeout("default", "", "zone-away", 1)})
	c2 := g2.client("east", east, nil)
	run(t, c2.Run)
	<-c2.Synced()
	east.awaitKey(t, timeout("default", "", "zone-away", 1).Key)
	if z := g2.awaitZone(t, "east", "applied", func(z ZoneState) bool { return z.Applied == 3 }); !z.Resumed {
		t.Errorf("not resumed after the zone's restart: %+v", z)
	}
}

func TestWrongZoneNameIsDeniedAndNamesBoth(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	c := g.client("east", newNode(t),
		func(c *ClientConfig) { c.Token = func() (string, error) { return "token-west", nil } })
	run(t, c.Run)
	awaitClient(t, c, func(s GlobalState) bool { return s.Permanent })
	if s := c.State(); s.State != Offline || !contains(s.Reason, "east", "west") {
		t.Errorf("%+v", s)
	}
	if len(g.server.Zones()) != 0 {
		t.Errorf("a zone was admitted: %v", g.server.Zones())
	}
}

func TestNewerEpochFencesTheOlder(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	node := newNode(t) // both are of one store, as replicas of a zone are
	first := g.client("east", node, func(c *ClientConfig) { c.Instance = "old" })
	run(t, first.Run)
	g.awaitZone(t, "east", "old online",
		func(z ZoneState) bool { return z.Instance == "old" && z.State == Online })
	second := g.client("east", node, func(c *ClientConfig) { c.Instance = "new" })
	run(t, second.Run)
	g.awaitZone(t, "east", "new online",
		func(z ZoneState) bool { return z.Instance == "new" && z.State == Online })
	awaitClient(t, first, func(s GlobalState) bool {
		return s.Permanent && contains(s.Reason, "held by instance new")
	})
	if z := g.server.Zones()[0]; z.Instance != "new" {
		t.Errorf("%+v", z)
	}
}

func TestAdminTunnel(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	if _, err := g.server.Call(t.Context(), "east", "/x/Y", nil); status.Code(err) != codes.Unavailable {
		t.Errorf("unknown zone: %v", err)
	}
	c := g.client("east", newNode(t), func(c *ClientConfig) {
		c.Admin = func(ctx context.Context, method string, req []byte) ([]byte, error) {
			switch method {
			case "/fail":
				return nil, status.Error(codes.NotFound, "no such proxy")
			case "/hang":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return append([]byte(method+":"), req...), nil
		}
	})
	stop := run(t, c.Run)
	g.awaitZone(t, "east", "online", func(z ZoneState) bool { return z.State == Online })
	var resp []byte
	for { // the Admin stream is independent of the others
		var err error
		if resp, err = g.server.Call(t.Context(), "east", "/x/Y",
			[]byte("hi")); status.Code(err) != codes.Unavailable {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if string(resp) != "/x/Y:hi" {
		t.Errorf("got %q", resp)
	}
	if _, err := g.server.Call(t.Context(), "east", "/fail", nil); status.Code(err) != codes.NotFound ||
		!contains(err.Error(), "no such proxy") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := g.server.Call(ctx, "east", "/hang", nil); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	stop()
	g.awaitZone(t, "east", "gone", func(z ZoneState) bool { return z.State != Online })
	for {
		if _, err := g.server.Call(t.Context(), "east", "/x/Y", nil); status.Code(err) == codes.Unavailable {
			break
		}
	}
}

func TestRefusedItemIsLeftOutAlone(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	east := newNode(t)
	c := g.client("east", east, func(c *ClientConfig) {
		c.Validate = func(r *mesh.Resource) error {
			if r.Key.Name == "bad" {
				e := &mesh.ValidationError{}
				e.Add("spec.to[0].default", "must not be bad")
				return e
			}
			return nil
		}
	})
	run(t, c.Run)
	g.commit(t, store.Put{Resource: timeout("default", "", "bad", 1)},
		store.Put{Resource: timeout("default", "", "good", 1)})
	east.awaitKey(t, timeout("default", "", "good", 1).Key)
	z := g.awaitZone(t, "east", "the rejection",
		func(z ZoneState) bool { return len(z.Rejections) == 1 && z.Applied == 1 })
	if r := z.Rejections[0]; r.GetCause().GetName() != "bad" || r.GetField() != "spec.to[0].default" {
		t.Errorf("%v", r)
	}
	g.commit(t, store.Delete{Key: timeout("default", "", "bad", 1).Key})
	g.awaitZone(t, "east", "no rejection",
		func(z ZoneState) bool { return len(z.Rejections) == 0 && z.Applied == 2 && z.DigestsEqual })
}

func TestProgressFollowsProxies(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	east := newNode(t)
	p := newFakeProgress()
	c := g.client("east", east, func(c *ClientConfig) { c.Progress, c.ProgressChanged = p.get, p.watch })
	run(t, c.Run)
	rev := g.commit(t, store.Put{Resource: timeout("default", "", "a", 1)})
	east.awaitKey(t, timeout("default", "", "a", 1).Key)
	z := g.awaitZone(t, "east", "applied", func(z ZoneState) bool { return z.Progress.GetApplied() == rev })
	if z.Answered >= rev {
		t.Errorf("answered %d before any proxy did", z.Answered)
	}
	p.set(LocalProgress{
		Answered:     east.replica.View().Revision(),
		Total:        2,
		Online:       1,
		PendingCount: 1,
		Pending:      []string{"x"},
	})
	z = g.awaitZone(t, "east", "answered", func(z ZoneState) bool { return z.Answered == rev })
	if z.Progress.GetProxiesTotal() != 2 || z.Progress.GetPendingCount() != 1 {
		t.Errorf("%v", z.Progress)
	}
}

func TestIssueIntermediate(t *testing.T) {
	g := startGlobal(t, globalOptions{edit: func(c *ServerConfig) {
		c.Sign = func(_ context.Context, zone, meshName string,
			csr []byte) (*kdsv1.IssueIntermediateResponse, error) {
			if meshName == "none" {
				return nil, errors.New("mesh none has no authority")
			}
			return &kdsv1.IssueIntermediateResponse{Chain: fmt.Sprintf("%s/%s/%s", zone, meshName, csr)}, nil
		}
	}})
	c := g.client("east", newNode(t), nil)
	run(t, c.Run)
	resp, err := c.IssueIntermediate(t.Context(), "default", []byte("csr"))
	if err != nil || resp.GetChain() != "east/default/csr" {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err := c.IssueIntermediate(t.Context(), "none",
		nil); status.Code(err) != codes.FailedPrecondition || !contains(err.Error(), "no authority") {
		t.Errorf("%v", err)
	}
}

func TestSilentConnectionIsReplaced(t *testing.T) {
	g := startGlobal(t, globalOptions{edit: func(c *ServerConfig) { c.Lease = time.Second }})
	east := newNode(t)
	run(t, g.client("east", east, nil).Run)
	g.awaitZone(t, "east", "online", func(z ZoneState) bool { return z.State == Online })
	end := g.ln.freeze()
	defer end()
	g.awaitZone(t, "east", "silence",
		func(z ZoneState) bool { return z.State == Offline || z.State == Stale })
	rev := g.commit(t, store.Put{Resource: timeout("default", "", "after", 1)})
	g.awaitZone(t, "east", "a new connection",
		func(z ZoneState) bool { return z.State == Online && z.Applied >= rev })
	east.awaitKey(t, timeout("default", "", "after", 1).Key)
}

func TestSnapshotsAreAdmittedInTurns(t *testing.T) {
	g := startGlobal(t, globalOptions{edit: func(c *ServerConfig) { c.Snapshots = 1 }})
	rev := g.commit(t, manyTimeouts(500)...)
	for i := range 5 {
		run(t, g.client(fmt.Sprintf("zone-%d", i), newNode(t), nil).Run)
	}
	for i := range 5 {
		g.awaitZone(t, fmt.Sprintf("zone-%d", i), "applied",
			func(z ZoneState) bool { return z.Applied >= rev && z.State == Online })
	}
	if n := len(g.server.snapshots); n > 1 {
		t.Errorf("%d tokens of 1 are taken", n)
	}
}

func TestHistoryIsCompactedWhileAway(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	g.commit(t, manyTimeouts(20)...)
	east := newNode(t)
	stop := run(t, g.client("east", east, nil).Run)
	g.awaitZone(t, "east", "applied", func(z ZoneState) bool { return z.Applied == 1 })
	stop()
	rev := g.commit(t, store.Delete{Key: timeout("default", "", "policy-0003", 1).Key})
	if err := g.store.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	run(t, g.client("east", east, nil).Run)
	z := g.awaitZone(t, "east", "applied", func(z ZoneState) bool { return z.Applied == rev })
	if z.Resumed || z.ResetReason != kds.ResetCompacted {
		t.Errorf("%+v", z)
	}
	east.await(t, "deletion of what went meanwhile", func(v replica.View) bool {
		_, ok := v.Get(timeout("default", "", "policy-0003", 1).Key)
		return !ok
	})
}
