package admission

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func aimed(name string, target *meshv1.TargetRef) *mesh.Resource {
	return &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name},
		Spec: &meshv1.MeshTimeout{TargetRef: target},
	}
}

func labelled(value string) *meshv1.TargetRef {
	return &meshv1.TargetRef{Kind: "Dataplane", Labels: map[string]string{"app": value}}
}

func TestTargetWarning(t *testing.T) {
	t.Parallel()
	shadow := aimed("shadow", labelled("none"))
	shadow.Labels = map[string]string{mesh.LabelEffect: mesh.EffectShadow}
	for _, c := range []struct {
		name           string
		resource       *mesh.Resource
		matches, known bool
		asked          bool
		warns          bool
	}{
		{"matches", aimed("p", labelled("web")), true, true, true, false},
		{"matches nothing", aimed("p", labelled("none")), false, true, true, true},
		{"a zone did not answer", aimed("p", labelled("none")), false, false, true, false},
		{"the whole mesh", aimed("p", &meshv1.TargetRef{Kind: "Mesh"}), false, true, false, false},
		{"no target", aimed("p", nil), false, true, false, false},
		{"shadow", shadow, false, true, false, false},
		{
			name: "not a policy",
			resource: &mesh.Resource{
				Key:  mesh.Key{Kind: mesh.KindMesh, Name: "default"},
				Spec: &meshv1.Mesh{},
			},
			known: true,
		},
	} {
		asked := false
		targets := NewTargets(func(context.Context, *mesh.Resource) (bool, bool) {
			asked = true
			return c.matches, c.known
		})
		warning := targets.Check(t.Context(), c.resource)()
		if (warning != "") != c.warns {
			t.Errorf("%s: warning %q", c.name, warning)
		}
		if asked != c.asked {
			t.Errorf("%s: asked: %t", c.name, asked)
		}
	}
}

// TestTargetsAreAskedOnce: a target that matched is not asked about again for a while, one that did
// not is, and writes that come together share one question.
func TestTargetsAreAskedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		targets := NewTargets(func(ctx context.Context, r *mesh.Resource) (bool, bool) {
			asked.Add(1)
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return false, false
			}
			labels := r.Spec.(*meshv1.MeshTimeout).GetTargetRef().GetLabels()
			return labels["app"] == "web", true
		})
		together := func(value string, warns bool) {
			t.Helper()
			var g sync.WaitGroup
			for _, name := range []string{"a", "b", "c", "d"} {
				g.Go(func() {
					warning := targets.Check(t.Context(), aimed(name, labelled(value)))()
					if (warning != "") != warns {
						t.Errorf("%s, app %s: warning %q", name, value, warning)
					}
				})
			}
			g.Wait()
		}
		count := func(what string, want int64) {
			t.Helper()
			if got := asked.Swap(0); got != want {
				t.Errorf("%s: asked %d times, want %d", what, got, want)
			}
		}
		together("web", false)
		count("four writes together", 1)
		together("web", false)
		count("a target that matched", 0)
		together("none", true)
		count("another target", 1)
		together("none", true)
		count("a target that did not match", 1)
		time.Sleep(knownFor)
		together("web", false)
		count("after a while", 1)
	})
}

// TestTargetTimeout: zones that do not answer hold a write up for a bounded time, and it is not
// warned of then.
func TestTargetTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		targets := NewTargets(func(ctx context.Context, _ *mesh.Resource) (bool, bool) {
			<-ctx.Done()
			return false, false
		})
		start := time.Now()
		if warning := targets.Check(t.Context(), aimed("p", labelled("none")))(); warning != "" {
			t.Errorf("warning %q of what is not known", warning)
		}
		if took := time.Since(start); took != targetTimeout {
			t.Errorf("took %s, want %s", took, targetTimeout)
		}
	})
}
