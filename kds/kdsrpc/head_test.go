package kdsrpc

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/internal/seal"
	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
)

// nothing is what a commit without changes consists of: it has a revision all the same.
func nothing(name string) store.Op { return store.SetMeta{Name: "test/" + name, Value: []byte(name)} }

// held is the status of a Zone, which stays at global.
func held(zone, state string) []store.Op {
	key := mesh.Key{Kind: mesh.KindZone, Name: zone}
	return []store.Op{
		store.Put{Resource: &mesh.Resource{Key: key, Spec: &meshv1.Zone{}}},
		store.PutStatus{Key: key, Status: &meshv1.ZoneStatus{State: state}},
	}
}

func TestRevisionsWithNothingForAZoneCountAsAnswered(t *testing.T) {
	for _, c := range []struct {
		name string
		ops  func(n string) []store.Op
	}{
		{"no change", func(n string) []store.Op { return []store.Op{nothing(n)} }},
		{"a change that stays at global", func(n string) []store.Op { return held("west", n) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGlobal(t, globalOptions{})
			east := newNode(t)
			p := newFakeProgress()
			run(t, g.client("east", east, func(c *ClientConfig) {
				c.Progress, c.ProgressChanged = p.get, p.watch
			}).Run)
			policy := timeout("default", "", "a", 1)
			rev := g.commit(t, store.Put{Resource: policy})
			east.awaitKey(t, policy.Key) // its replica may be behind its store
			g.awaitZone(t, "east", "the policy", func(z ZoneState) bool { return z.Applied >= rev })

			// The proxies have not answered the policy: what comes after it is applied, not answered.
			head := g.commit(t, c.ops("1")...)
			z := g.awaitZone(t, "east", "the head", func(z ZoneState) bool { return z.Applied >= head })
			if z.Answered >= rev {
				t.Errorf("answered %d, though the proxies owe an answer to revision %d", z.Answered, rev)
			}

			p.set(LocalProgress{Answered: east.replica.View().Revision()})
			head = g.commit(t, c.ops("2")...)
			z = g.awaitZone(t, "east", "the answer", func(z ZoneState) bool { return z.Answered >= head })
			if z.Applied < head || z.LagRevisions != 0 {
				t.Errorf("applied %d of %d, %d behind", z.Applied, head, z.LagRevisions)
			}

			// With the head beyond its own revision the zone is asked for an answer again.
			rev = g.commit(t, store.Put{Resource: timeout("default", "", "a", 2)})
			z = g.awaitZone(t, "east", "the next policy", func(z ZoneState) bool { return z.Applied >= rev })
			if z.Answered >= rev {
				t.Errorf("answered %d, though the proxies owe an answer to revision %d", z.Answered, rev)
			}
		})
	}
}

func TestBookmarkFollowsWhatIsNotForTheZone(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	east := newNode(t)
	c := g.client("east", east, nil)
	run(t, c.Run)
	g.awaitZone(t, "east", "online", func(z ZoneState) bool { return z.State == Online })
	head := g.commit(t, held("west", "1")...)
	awaitClient(t, c, func(s GlobalState) bool { return s.Revision >= head })
	if _, state := c.Local(head); state != store.RevisionElsewhere {
		t.Errorf("revision %d in the zone: %d", head, state)
	}
}

// gate holds up a zone's copies until it is opened.
type gate chan struct{}

func (g gate) check(*mesh.Resource) error { <-g; return nil }

func TestRecreatedStoreOfAZoneHasAppliedNothing(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	rev := g.commit(t, manyTimeouts(5)...)
	stop := run(t, g.client("east", newNode(t), func(c *ClientConfig) { c.Instance = "old" }).Run)
	head := g.commit(t, nothing("before"))
	g.awaitZone(t, "east", "the head",
		func(z ZoneState) bool { return z.Applied >= head && z.Answered >= head })
	stop()

	open := make(gate)
	again := newNode(t)
	run(t, g.client("east", again, func(c *ClientConfig) { c.Instance, c.Validate = "new", open.check }).Run)
	g.awaitZone(t, "east", "both streams of the new process", func(z ZoneState) bool {
		return z.Instance == "new" && z.ResetReason == kds.ResetFirst && z.State != Stale
	})
	head = g.commit(t, nothing("while it has nothing"))
	z := g.awaitZone(t, "east", "the head", func(z ZoneState) bool { return z.Revision >= head })
	if z.Applied != 0 || z.Answered != 0 {
		t.Errorf("applied %d and answered %d before it has anything", z.Applied, z.Answered)
	}
	close(open)
	g.awaitZone(t, "east", "the head applied",
		func(z ZoneState) bool { return z.Applied >= head && z.Answered >= head && z.State == Online })
	if again.replica.View().Len() < 5 {
		t.Errorf("%d resources of revision %d", again.replica.View().Len(), rev)
	}
}

func TestGlobalRestoredToAnOlderStoreWaitsForItsZones(t *testing.T) {
	sealer, err := seal.New(make([]byte, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first, backup := filepath.Join(dir, "first"), filepath.Join(dir, "backup")
	atGlobal := openNode(t, embedded.Config{Dir: first, Sealer: sealer})
	atGlobal.commit(t, manyTimeouts(5)...)
	atGlobal.close()
	if err := os.CopyFS(backup, os.DirFS(first)); err != nil {
		t.Fatal(err)
	}

	cert := selfSigned(t)
	g := startGlobal(t, globalOptions{
		node: openNode(t, embedded.Config{Dir: first, Sealer: sealer}),
		cert: cert,
	})
	east := newNode(t)
	open := make(gate)
	held := false
	c := g.client("east", east, func(c *ClientConfig) {
		c.Validate = func(r *mesh.Resource) error {
			if held {
				return open.check(r)
			}
			return nil
		}
	})
	stop := run(t, c.Run)
	for i := range 10 {
		g.commit(t, store.Put{Resource: timeout("default", "", "lost", int64(i+1))})
	}
	lost := g.commit(t, nothing("lost"))
	g.awaitZone(t, "east", "the head", func(z ZoneState) bool { return z.Answered >= lost })
	stop()
	g.stop()

	held = true
	restored := openNode(t, embedded.Config{Dir: backup, Sealer: sealer})
	head := restored.commit(t, nothing("restored"))
	if head >= lost {
		t.Fatalf("the restored store is at revision %d, the zone at %d", head, lost)
	}
	g2 := startGlobal(t, globalOptions{node: restored, addr: g.addr, cert: cert})
	run(t, g2.client("east", east, func(cfg *ClientConfig) { cfg.Validate = c.cfg.Validate }).Run)
	g2.awaitZone(t, "east", "both streams",
		func(z ZoneState) bool { return z.ResetReason == kds.ResetStore && z.State != Stale })
	head = g2.commit(t, nothing("while the zone has the future"))
	z := g2.awaitZone(t, "east", "the head", func(z ZoneState) bool { return z.Revision >= head })
	if z.Applied != 0 || z.Answered != 0 {
		t.Errorf("applied %d and answered %d of a store that the zone has nothing of", z.Applied, z.Answered)
	}
	close(open)
	g2.awaitZone(t, "east", "the head applied",
		func(z ZoneState) bool { return z.Applied == head && z.Answered == head && z.State == Online })
	east.await(t, "what was lost to be gone", func(v replica.View) bool {
		_, ok := v.Get(timeout("default", "", "lost", 1).Key)
		return !ok && v.Len() == 5
	})
}

func TestSilentStreamEndsWithoutRun(t *testing.T) {
	g := startGlobal(t, globalOptions{idle: true, edit: func(c *ServerConfig) {
		c.Lease = 300 * time.Millisecond
	}})
	conn, err := grpc.NewClient("passthrough:///"+g.addr,
		grpc.WithTransportCredentials(credentials.NewTLS(g.tls)),
		grpc.WithPerRPCCredentials(token{func() (string, error) { return "token-east", nil }}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := kdsv1.NewKdsServiceClient(conn)
	hello := g.client("east", newNode(t), nil).hello(nil)
	hello.Epoch = 1

	// Both say Hello and nothing else, though State has no heartbeats of its own.
	for _, open := range []func(context.Context, ...grpc.CallOption) (
		grpc.BidiStreamingClient[kdsv1.Frame, kdsv1.Frame], error){client.Config, client.State} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		st, err := open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&kdsv1.Frame{Message: &kdsv1.Frame_Hello{Hello: hello}}); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = st.Recv()
		}
		if status.Code(err) != codes.DeadlineExceeded || ctx.Err() != nil {
			t.Errorf("the stream ended with %v", err)
		}
	}
}
