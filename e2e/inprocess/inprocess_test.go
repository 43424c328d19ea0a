package inprocess

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/test/roletest"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

func timeout(d time.Duration) *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"},
		Spec: &meshv1.MeshTimeout{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
			To: []*meshv1.MeshTimeout_To{{
				TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
				Default: &meshv1.MeshTimeout_Conf{
					Http: &meshv1.MeshTimeout_Http{RequestTimeout: durationpb.New(d)},
				},
			}},
		},
	}
}

// TestPolicyReachesBothZones: a policy written at global is with every proxy of both zones when Wait returns.
func TestPolicyReachesBothZones(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	east, west := w.sidecar("us-east", "east", "web", "127.0.0.1"),
		w.sidecar("eu-west", "west", "web", "127.0.0.2")
	const (
		eastCluster = "kri_msvc_default_us-east__web_9001"
		westCluster = "kri_msvc_default_eu-west__web_9001"
	)
	w.waitEndpoints(east, eastCluster, "127.0.0.1:9001 0 healthy")
	w.waitEndpoints(west, westCluster, "127.0.0.2:9001 0 healthy")
	before := map[*proxy]int{}
	for _, p := range []*proxy{east, west} {
		before[p] = p.Total().Responses
	}
	w.settled(w.apply(timeout(7 * time.Second)))
	for _, p := range []*proxy{east, west} {
		if p.Total().Responses == before[p] {
			t.Error("Wait returned, but a proxy has not heard of the policy")
		}
	}
	status := w.global.Status(w.ctx)
	if len(status.GetZones()) != 2 {
		t.Fatalf("status %v", status)
	}
	for _, z := range status.GetZones() {
		if z.GetState() != adminv1.ZoneState_ZONE_STATE_ONLINE || z.GetProxies().GetOnline() != 1 ||
			!z.GetDigestsEqual() {
			t.Errorf("zone %v", z)
		}
		r, err := w.g.Store.Get(w.ctx, mesh.Key{Kind: mesh.KindZone, Name: z.GetName()})
		if err != nil || mesh.Status[*meshv1.ZoneStatus](r).GetState() == "" {
			t.Errorf("Zone resource of %s: %v %v", z.GetName(), r, err)
		}
	}
}

// TestFailoverThroughIngress: a client prefers its own zone's instances; when they are lost the
// other zone's ingress is there.
func TestFailoverThroughIngress(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	w.apply(mtls(), multiZone("global-web", "web"))
	client := w.sidecar("us-east", "client", "client", "127.0.0.9")
	w.sidecar("eu-west", "web-w", "web", "127.0.0.2")
	w.ingress("eu-west", "127.0.0.3")
	home := w.sidecar("us-east", "web-e", "web", "127.0.0.1")
	const cluster = "kri_mzsvc_default___global-web_9001"
	w.waitEndpoints(client, cluster, "127.0.0.1:9001 0 healthy", "127.0.0.3:10001 1 healthy")
	home.cut()
	w.waitEndpoints(client, cluster, "127.0.0.1:9001 0 unhealthy", "127.0.0.3:10001 1 healthy")
	w.waitEndpoints(client, cluster, "127.0.0.3:10001 0 healthy")
	w.eventually("members without the lost instance", func() bool {
		r, ok := w.global.Replica().View().Get(multiZone("global-web", "web").Key)
		if !ok {
			return false
		}
		members := mesh.Status[*meshv1.MeshMultiZoneServiceStatus](r).GetMeshServices()
		return len(members) == 2 && members[0].GetZone() == "eu-west" && members[0].GetHealthy() == 1 &&
			members[1].GetHealthy() == 0
	})
}

// TestGlobalRestart: zones serve without global, and resume where they were when it is back.
func TestGlobalRestart(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	east := w.sidecar("us-east", "east", "web", "127.0.0.1")
	const cluster = "kri_msvc_default_us-east__web_9001"
	w.waitEndpoints(east, cluster, "127.0.0.1:9001 0 healthy")
	w.settled(w.apply(timeout(7 * time.Second)))
	token := w.zoneToken("us-east")
	w.g.Stop()
	// A new instance joins while global is down; its token was issued before.
	w.sidecar("us-east", "east-2", "web", "127.0.0.2")
	w.waitEndpoints(east, cluster, "127.0.0.1:9001 0 healthy", "127.0.0.2:9001 0 healthy")
	// So does the zone's control plane come back while global is down.
	w.zones["us-east"].Stop()
	w.startZone("us-east", token)
	w.zones["us-east"].Ready(w.t, deadline)
	if err := east.Wait(w.ctx, func(s *xdstest.State) bool { return s.Connected >= 2 }); err != nil {
		t.Fatal(err)
	}
	w.startGlobal()
	w.g.Ready(w.t, deadline)
	w.settled(w.apply(timeout(8 * time.Second)))
	for _, z := range w.global.Status(w.ctx).GetZones() {
		if !z.GetResumed() {
			t.Errorf("zone %s did not resume: %v", z.GetName(), z)
		}
	}
}

// TestBadToken: a zone with a token of another zone, of no use or out of date keeps running, says
// why it is refused, and joins once it has a good one, without a restart.
func TestBadToken(t *testing.T) {
	w := newWorld(t)
	foreign := w.zoneToken("eu-west")
	late, err := w.global.Tokens().IssueZone(w.ctx, tokens.ZoneClaims{
		Zone:  "us-east",
		Scope: []string{"cp"},
	}, time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ token, reason string }{
		"foreign": {foreign, "eu-west"}, "garbage": {"garbage", "--token-file"}, "expired": {late, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.with(t)
			w.zones["us-east"] = roletest.New(t)
			file := w.startZone("us-east", c.token)
			z := w.running["us-east"]
			w.poll("refused", func() bool {
				s := z.Status(w.ctx).GetGlobal()
				return s.GetState() == adminv1.ConnectionState_CONNECTION_STATE_REFUSED &&
					strings.Contains(s.GetReason(), c.reason)
			})
			if err := os.WriteFile(file, []byte(w.zoneToken("us-east")), 0o600); err != nil {
				t.Fatal(err)
			}
			w.zones["us-east"].Ready(t, deadline)
			w.zones["us-east"].Stop()
		})
	}
}

// TestOfflineZoneIsReported: a zone that is offline is named and does not block a wait.
func TestOfflineZoneIsReported(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	revision := w.apply(timeout(7 * time.Second))
	w.settled(revision)
	w.zones["eu-west"].Stop()
	ctx, cancel := context.WithTimeout(w.ctx, 15*time.Second)
	defer cancel()
	got := w.global.Wait(ctx, w.apply(timeout(9*time.Second)))
	if ctx.Err() != nil || got.GetComplete() {
		t.Fatalf("Wait = %v (%v)", got, ctx.Err())
	}
	for _, z := range got.GetZones() {
		if z.GetComplete() != (z.GetZone() == "us-east") {
			t.Errorf("%v", z)
		}
	}
}

// TestRefusalReachesThePolicy: a proxy's NACK fails the wait, is on the policy's status at global,
// and goes when the policy is mended.
func TestRefusalReachesThePolicy(t *testing.T) {
	w := newWorld(t, "us-east")
	var refuse atomic.Bool
	c := w.config("us-east", "east", "web", "127.0.0.1")
	c.Verdict = func(r xdstest.Response) xdstest.Verdict {
		if refuse.Load() && len(r.Resources) > 0 {
			return xdstest.Verdict{Reject: "I do not like it"}
		}
		return xdstest.Verdict{}
	}
	p := w.start(c)
	w.waitEndpoints(p, "kri_msvc_default_us-east__web_9001", "127.0.0.1:9001 0 healthy")
	w.settled(w.apply(timeout(6 * time.Second)))
	refuse.Store(true)
	got := w.global.Wait(w.ctx, w.apply(timeout(7*time.Second)))
	if got.GetComplete() || len(got.GetZones()[0].GetRejections()) == 0 {
		t.Fatalf("Wait = %v", got)
	}
	policy := timeout(0).Key
	rejections := func() []*meshv1.Rejection {
		r, ok := w.global.Replica().View().Get(policy)
		if !ok {
			return nil
		}
		return mesh.Status[*meshv1.DeliveryStatus](r).GetRejections()
	}
	w.eventually("the rejection on the policy", func() bool {
		d := rejections()
		return len(d) == 1 && d[0].GetZone() == "us-east" &&
			d[0].GetStage() == meshv1.Rejection_STAGE_PROXY &&
			strings.Contains(d[0].GetReason(), "I do not like it") && d[0].GetProxy() != nil
	})
	if len(w.global.Status(w.ctx).GetRejections()) == 0 {
		t.Error("the rejection is not in the status")
	}
	refuse.Store(false)
	w.settled(w.apply(timeout(8 * time.Second)))
	w.eventually("the policy without rejection", func() bool { return len(rejections()) == 0 })
}

// TestMultiZoneServiceArrivesLater: proxies that are there when a multi-zone service is made get
// its endpoints after its cluster, however many steps it is made in.
func TestMultiZoneServiceArrivesLater(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	w.settled(w.apply(mtls()))
	client := w.sidecar("us-east", "client", "client", "127.0.0.9")
	w.sidecar("eu-west", "web-w", "web", "127.0.0.2")
	w.ingress("eu-west", "127.0.0.3")
	w.sidecar("us-east", "web-e", "web", "127.0.0.1")
	w.waitEndpoints(client, "kri_msvc_default_us-east__web_9001", "127.0.0.1:9001 0 healthy")
	w.waitEndpoints(client, "kri_msvc_default_eu-west__web_9001", "127.0.0.3:10001 0 healthy")
	w.settled(w.apply(multiZone("global-web", "web")))
	w.waitEndpoints(client, "kri_mzsvc_default___global-web_9001", "127.0.0.1:9001 0 healthy",
		"127.0.0.3:10001 1 healthy")
	if err := client.Wait(w.ctx, func(s *xdstest.State) bool { return len(s.Warming) == 0 }); err != nil {
		client.View(func(s *xdstest.State) { t.Fatalf("still warming: %v; log %v", s.Warming, s.Log) })
	}
}
