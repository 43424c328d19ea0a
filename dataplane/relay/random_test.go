package relay

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
)

// walk is a zone, an Envoy and a launcher that do as chance has it, with what the cache must hold.
type walk struct {
	*rand.Rand
	t      *testing.T
	path   string
	cache  *Cache
	stream *stream
	nonces int
	// holds is what Envoy has, want what the cache must have: by type and name.
	holds, want map[string]map[string]resource
	// unanswered are responses that Envoy has not answered.
	unanswered []response
}

var urls = []string{clusters, endpoints, secrets}

func empty() map[string]map[string]resource {
	out := map[string]map[string]resource{}
	for _, url := range urls {
		out[url] = map[string]resource{}
	}
	return out
}

// connect opens a stream with what Envoy holds.
func (w *walk) connect() {
	w.unanswered = nil
	w.stream = &stream{
		relay:     &Relay{cfg: Config{Cache: w.cache}},
		cancel:    func(error) {},
		pending:   map[string][]byte{},
		room:      make(chan struct{}, 1),
		requested: map[string]bool{},
	}
	w.stream.generation = w.cache.begin(true)
	for _, url := range urls {
		initial := map[string]string{}
		for name, r := range w.holds[url] {
			initial[name] = r.version
		}
		if unknown := w.cache.unknown(url, initial); len(unknown) > 0 {
			w.t.Fatalf("the cache does not have %v of %s, which Envoy holds", unknown, url)
		}
		w.stream.note(request{url: url, initial: initial})
	}
}

// send has the zone send some resources of a type.
func (w *walk) send(url string) {
	w.nonces++
	r := response{url: url, nonce: fmt.Sprint(w.nonces)}
	for range w.IntN(4) {
		name := fmt.Sprint(w.IntN(8))
		version := fmt.Sprint(w.IntN(1000))
		if !slices.ContainsFunc(r.resources, func(o resource) bool { return o.name == name }) {
			r.resources = append(r.resources, res(name, version, "content of "+name+" "+version))
		}
	}
	if w.IntN(3) == 0 {
		name := fmt.Sprint(w.IntN(8))
		if !slices.ContainsFunc(r.resources, func(o resource) bool { return o.name == name }) {
			r.removed = append(r.removed, name)
		}
	}
	if err := w.stream.wait(context.Background(), r.encode()); err != nil {
		w.t.Fatal(err)
	}
	w.unanswered = append(w.unanswered, r)
}

// answer has Envoy answer one response, in any order.
func (w *walk) answer(reject bool) {
	if len(w.unanswered) == 0 {
		return
	}
	i := w.IntN(len(w.unanswered))
	r := w.unanswered[i]
	w.unanswered = slices.Delete(w.unanswered, i, i+1)
	w.stream.note(request{url: r.url, nonce: r.nonce, rejected: reject})
	if reject {
		return
	}
	for _, res := range r.resources {
		w.holds[r.url][res.name], w.want[r.url][res.name] = res, res
	}
	for _, name := range r.removed {
		delete(w.holds[r.url], name)
		delete(w.want[r.url], name)
	}
}

func (w *walk) step() {
	switch n := w.IntN(100); {
	case n < 45:
		w.send(urls[w.IntN(len(urls))])
	case n < 80:
		w.answer(false)
	case n < 86:
		w.answer(true)
	case n < 89: // Envoy no longer subscribes
		name := fmt.Sprint(w.IntN(8))
		delete(w.holds[endpoints], name)
		delete(w.want[endpoints], name)
		w.stream.note(request{url: endpoints, unsubscribe: []string{name}})
	case n < 92: // the stream is cut
		w.connect()
	case n < 94: // Envoy dies
		w.holds = empty()
		w.connect()
	case n < 96: // an answer of a stream that has ended
		old, r := w.stream, w.unanswered
		w.connect()
		if len(r) > 0 {
			old.note(request{url: r[0].url, nonce: r[0].nonce})
		}
	case n < 97: // Envoy is live
		w.stream.sweep()
		w.want = empty()
		for _, url := range urls {
			w.want[url] = maps.Clone(w.holds[url])
		}
	case n < 98:
		w.cache.flush()
	default: // the launcher dies, and Envoy with it
		if w.IntN(2) == 0 {
			shut(w.t, w.cache)
		} else {
			w.cache.flush()
			_ = w.cache.file.close()
		}
		w.cache = open(w.t, w.path)
		w.holds = empty()
		w.connect()
	}
}

// TestCacheEqualsTheModel: whatever happens, the cache has what Envoy acknowledged and still had.
func TestCacheEqualsTheModel(t *testing.T) {
	t.Parallel()

	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := &walk{
				Rand:  rand.New(rand.NewPCG(seed, 0)),
				t:     t,
				path:  filepath.Join(t.TempDir(), "cache"),
				holds: empty(),
				want:  empty(),
			}
			w.cache = open(t, w.path)
			w.connect()
			for i := range 400 {
				w.step()
				want := map[string]string{}
				for url, names := range w.want {
					for name, r := range names {
						want[url+" "+name] = r.version + " " + string(r.body)
					}
				}
				if got := contents(w.cache); !maps.Equal(got, want) {
					t.Fatalf("step %d: the cache has\n%q\nmust have\n%q", i, got, want)
				}
			}
			shut(t, w.cache)
		})
	}
}
