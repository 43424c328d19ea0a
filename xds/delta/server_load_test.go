package delta_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

func TestNeverAcking(t *testing.T) {
	r := newRig(t)
	w := services("a")
	r.engine.set(t, w)
	silent := false
	c := r.connect(t, func(x *xdstest.Config) {
		x.Verdict = func(xdstest.Response) xdstest.Verdict { return xdstest.Verdict{Silent: silent} }
	})
	r.engine.answered(t, 1)
	c.View(func(*xdstest.State) { silent = true })
	before := c.Total().Responses
	for range 100 {
		w = w.clone()
		w.endpoints["a"]++
		w.clusters["a"]++
		r.engine.set(t, w)
	}
	// A second client gets the end of it while the first stays where it is.
	other := r.connect(t)
	other.until(t, holds(t, w))
	if n := c.Total().Responses - before; n > 8 {
		t.Errorf("%d responses to a client that never answers", n)
	}
}

func TestSlowClient(t *testing.T) {
	r := newRig(t, func(c *delta.Config) { c.Workers = 1 }) // which must never wait for it
	names := make([]string, 200)
	for i := range names {
		names[i] = fmt.Sprintf("service-%03d-%s", i, strings.Repeat("x", 500))
	}
	w := services(names...)
	r.engine.set(t, w)
	slow := r.connect(t)
	r.engine.answered(t, 1)
	slow.Pause()
	fast := r.connect(t)
	for range 20 {
		w = w.clone()
		for _, n := range names {
			w.routes[n]++
		}
		r.engine.answered(t, r.engine.set(t, w)) // by the fast one, the newest watch
	}
	fast.until(t, holds(t, w))
	slow.Resume()
	slow.until(t, holds(t, w))
	if s, f := slow.Counters()[xdstest.Route].Bytes, fast.Counters()[xdstest.Route].Bytes; s > f/2 {
		t.Errorf("the slow client got %d bytes, the fast one %d: nothing was merged", s, f)
	}
}

func TestResponsesAreSplit(t *testing.T) {
	r := newRig(t, func(c *delta.Config) { c.MaxResponseBytes = 2000 })
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf("service-%03d", i)
	}
	w := services(names...)
	r.engine.set(t, w)
	largest := 0
	c := r.connect(t, func(x *xdstest.Config) {
		x.Verdict = func(resp xdstest.Response) xdstest.Verdict {
			largest = max(largest, resp.Bytes)
			return xdstest.Verdict{}
		}
	})
	c.until(t, holds(t, w))
	r.engine.answered(t, 1)
	c.View(func(*xdstest.State) {
		if largest > 2100 {
			t.Errorf("a response has %d bytes", largest)
		}
	})
	c.unbroken(t)
}

// TestRandom drives clients through random changes, rejections and cuts: each ends with what the last
// table says, and at no time refers to what it does not have.
func TestRandom(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			r := newRig(t, func(c *delta.Config) { c.MaxResponseBytes = 1500 })
			w := services("s0", "s1", "s2")
			r.engine.set(t, w)
			c := r.connect(t)
			for range 150 {
				w = w.clone()
				n := fmt.Sprintf("s%d", rng.IntN(12))
				_, there := w.clusters[n]
				switch k := rng.IntN(10); {
				case !there:
					w.clusters[n], w.endpoints[n], w.listeners[n], w.routes[n] = rng.IntN(5), rng.IntN(5),
						rng.IntN(5), rng.IntN(5)
				case k < 2:
					w = w.without(n)
				case k < 4:
					w.clusters[n] = rng.IntN(5)
				case k < 6:
					w.endpoints[n] = rng.IntN(5)
				case k < 7:
					w.listeners[n] = rng.IntN(5)
				case k < 9:
					w.routes[n] = rng.IntN(5)
				default:
					w.secret = rng.IntN(5)
				}
				rev := r.engine.set(t, w)
				switch rng.IntN(12) {
				case 0: // cut, perhaps in the middle of a push
					_ = c.stop()
					c = start(t, c.Client)
				case 1, 2, 3, 4:
					c.until(t, func(s *xdstest.State) bool { return s.Connected > 0 })
				case 5:
					r.engine.wait(t, "answered", func(a uint64, _ []delta.Rejection) bool { return a >= rev })
				}
			}
			c.until(t, holds(t, w))
			c.unbroken(t)
		})
	}
}

// A stream that has reached its age ends with a reason of its own; the proxy comes back, and is
// sent nothing that it holds.
func TestAgedStream(t *testing.T) {
	r := newRig(t, func(c *delta.Config) { c.MaxAge = 50 * time.Millisecond })
	w := services("a", "b")
	r.engine.set(t, w)
	c := r.connect(t)
	c.until(t, holds(t, w))
	if err := c.wait(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "age") {
		t.Errorf("the client's stream ended with %v", err)
	}
	if err := <-r.gate.left; !errors.Is(err, delta.ErrAged) {
		t.Errorf("the member left with %v", err)
	}
	c.log()
	again := start(t, c.Client)
	r.engine.wait(t, "answered again", func(a uint64, _ []delta.Rejection) bool { return a > 0 })
	if got := again.log(); len(got) > 0 {
		t.Errorf("resent %q", got)
	}
}

// While all places are taken by streams without a configuration, another waits; it is let in when
// one is configured.
func TestJoiningIsBounded(t *testing.T) {
	r := newRig(t, func(c *delta.Config) { c.MaxJoining, c.FirstConfigTimeout = 1, time.Hour })
	r.connect(t)
	r.engine.watch(t, func(*watch) bool { return true }) // it is in, and has nothing yet
	second := r.connect(t)
	w := services("a")
	r.engine.set(t, w)
	second.until(t, holds(t, w))
	_ = second.stop()
}
