package delta_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

// look is the newest stream of the rig's proxy, each resource in a line; versions are "same" or
// "other" than they should be.
func (r *rig) look(t *testing.T) (delta.StreamView, []string) {
	t.Helper()
	views := r.server.Describe(mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Name: "web"})
	if len(views) == 0 {
		t.Fatal("no stream")
	}
	v := views[len(views)-1]
	var lines []string
	for _, x := range v.Resources {
		has := "none"
		switch {
		case x.Acked == "":
		case x.Desired != nil && x.Acked == x.Desired.Version:
			has = "same"
		default:
			has = "other"
		}
		if x.Status != delta.InSync || has != "same" {
			lines = append(lines,
				fmt.Sprintf("%s %s: has %s, %s %s", x.Type, x.Name, has, x.Status, x.Reason))
		}
	}
	return v, lines
}

// TestLook: a stream says of each resource what its client has, not what it was sent.
func TestLook(t *testing.T) {
	r := newRig(t)
	w := services("a", "b")
	r.engine.set(t, w)
	var verdict func(xdstest.Response) xdstest.Verdict
	c := r.connect(t, func(x *xdstest.Config) {
		x.Verdict = func(resp xdstest.Response) xdstest.Verdict {
			if verdict == nil {
				return xdstest.Verdict{}
			}
			return verdict(resp)
		}
	})
	set := func(f func(xdstest.Response) xdstest.Verdict) { c.View(func(*xdstest.State) { verdict = f }) }
	expect := func(want ...string) {
		t.Helper()
		if _, got := r.look(t); !cmp.Equal(want, got) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	r.engine.answered(t, 1)
	c.until(t, holds(t, w))
	expect()
	if v, _ := r.look(t); v.Watch == nil || v.Join.NodeID != "default.web" || v.Since.IsZero() ||
		len(v.Resources) != 9 {
		t.Errorf("a stream of %d resources: %+v", len(v.Resources), v.Join)
	}

	// A rejected resource is not the client's: it goes on with the one before.
	set(func(resp xdstest.Response) xdstest.Verdict {
		if resp.Type == xdstest.Route {
			return xdstest.Verdict{Reject: "route a is wrong"}
		}
		return xdstest.Verdict{}
	})
	w = w.clone()
	w.routes["a"]++
	rev := r.engine.set(t, w)
	r.engine.wait(t, "a rejection",
		func(a uint64, got []delta.Rejection) bool { return a == rev && len(got) == 1 })
	expect("route a: has other, rejected route a is wrong")

	// An answer is missing: the cluster and its endpoints were sent, what has to come after them waits.
	set(func(resp xdstest.Response) xdstest.Verdict { return xdstest.Verdict{Silent: true} })
	w = w.clone()
	w.clusters["c"], w.endpoints["b"], w.routes["b"] = 1, 2, 2
	r.engine.set(t, w)
	c.until(t, func(s *xdstest.State) bool { return slices.Contains(s.Log, "endpoint-c") })
	_, got := r.look(t)
	want := []string{"cluster c: has none, sent ", "endpoint b: has other, sent ",
		"endpoint c: has none, sent ", "route a: has other, rejected route a is wrong",
		"route b: has other, pending "}
	if !cmp.Equal(want, got) {
		t.Errorf("got %q, want %q", got, want)
	}
	if views := r.server.Describe(mesh.Key{
		Kind: mesh.KindDataplane,
		Mesh: "default",
		Name: "other",
	}); len(views) > 0 {
		t.Errorf("streams of a proxy that has none: %v", views)
	}
	if err := c.stop(); err != nil && t.Context().Err() == nil {
		t.Log(err)
	}
	<-r.gate.left
}

// TestLookAtTheDoor: a stream that waits until others have had their configuration is shown as such, at once.
func TestLookAtTheDoor(t *testing.T) {
	r := newRig(t, func(c *delta.Config) { c.MaxJoining = 1 })
	r.engine.set(t, services("a"))
	first := r.connect(t, func(x *xdstest.Config) {
		x.Verdict = func(xdstest.Response) xdstest.Verdict { return xdstest.Verdict{Silent: true} }
	})
	first.until(t, func(s *xdstest.State) bool { return len(s.Log) > 0 })
	r.connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), wireTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var views []delta.StreamView
	for len(views) < 2 {
		views = r.server.Describe(mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Name: "web"})
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("streams %+v", views)
		}
	}
	if len(views) != 2 || views[0].Watch == nil || views[1].Watch != nil || len(views[1].Resources) != 0 {
		t.Errorf("streams %+v", views)
	}
}
