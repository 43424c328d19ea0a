package admission

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
)

// Times and sizes of [Targets].
const (
	// targetTimeout bounds what the question adds to a write.
	targetTimeout = 250 * time.Millisecond
	// knownFor is how long a target that matched is taken to match still.
	knownFor = time.Minute
	// maxKnown bounds the targets that are remembered.
	maxKnown = 4096
)

// targetWarning is for the author of a policy that no proxy matches.
const targetWarning = "spec.targetRef: matches no proxy yet; stored, takes effect when a matching proxy joins"

// Count says whether a policy selects at least one proxy. known is false if a zone that could have
// one did not answer before ctx ended; matches is false then.
type Count func(ctx context.Context, r *mesh.Resource) (matches, known bool)

// Targets finds out whether policies match a proxy, for the warning of a write.
//
// The question goes to every zone, and must not make writes slow. So it is asked only of a policy
// that names a target (one for the whole mesh may come before its proxies), only for a target that
// has not matched within the last minute, once for any number of concurrent writes with that
// target, while the write is being committed, and never longer than 250 ms. What it costs depends
// on the number of zones, and not on that of proxies: zones answer a number. If a zone does not
// answer in time and no other has a match, there is no warning: a wrong one is worse than none.
type Targets struct {
	count Count

	mu      sync.Mutex
	known   map[string]time.Time // when a target matched last
	flights map[string]*flight
}

// flight is a question that is being asked.
type flight struct {
	done    chan struct{}
	warning string // once done
}

// NewTargets makes a Targets.
func NewTargets(count Count) *Targets {
	return &Targets{
		count:   count,
		known:   map[string]time.Time{},
		flights: map[string]*flight{},
	}
}

// Check begins to find out about a policy and returns a function that waits for the warning, empty
// if there is none to give. The function must be called once, at the latest when ctx ends. Of writes
// that share a question, the first asks it: if that write is cancelled, none of them is warned.
func (t *Targets) Check(ctx context.Context, r *mesh.Resource) (warning func() string) {
	key := targetKey(r)
	if key == "" {
		return func() string { return "" }
	}

	t.mu.Lock()
	if at, ok := t.known[key]; ok && time.Since(at) < knownFor {
		t.mu.Unlock()
		return func() string { return "" }
	}
	f, asked := t.flights[key]
	if !asked {
		f = &flight{done: make(chan struct{})}
		t.flights[key] = f
	}
	t.mu.Unlock()

	if !asked {
		ctx, cancel := context.WithTimeout(ctx, targetTimeout)
		go func() { // ends with count, which ends with ctx
			defer cancel()
			t.ask(ctx, key, f, r)
		}()
	}
	return func() string {
		<-f.done
		return f.warning
	}
}

func (t *Targets) ask(ctx context.Context, key string, f *flight, r *mesh.Resource) {
	defer close(f.done)
	matches, known := t.count(ctx, r)
	if known && !matches {
		f.warning = targetWarning
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flights, key)
	if !matches {
		return
	}
	if len(t.known) >= maxKnown {
		clear(t.known)
	}
	t.known[key] = time.Now()
}

// targetKey names what decides which proxies a policy selects; empty for a policy that is never
// warned of.
func targetKey(r *mesh.Resource) string {
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok || info.Policy == nil {
		return ""
	}
	head := policy.HeadOf(r)
	if kind := head.Target.GetKind(); head.Shadow || kind == "" || kind == string(mesh.KindMesh) {
		return ""
	}
	target, err := proto.MarshalOptions{Deterministic: true}.Marshal(head.Target)
	if err != nil {
		return ""
	}
	return r.Key.Mesh + "\x00" + head.Zone + "\x00" + head.Namespace + "\x00" + string(target)
}
