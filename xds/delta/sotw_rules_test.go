package delta_test

import (
	"context"
	"fmt"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/xds/delta"
)

// The rules of state-of-the-world ADS, one by one, at the wire.

// nothing fails if a response is there. It asks for something else first, so that what was owed
// would have come by then.
func (c *whole) nothing() {
	c.t.Helper()
	c.ask(delta.TypeSecret)
	c.ask(delta.TypeSecret, "identity")
	c.takeSecret()
}

// takeSecret receives the secret, whose content has a number in its name.
func (c *whole) takeSecret() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), wireTimeout)
	defer cancel()
	select {
	case m := <-c.got:
		if m.GetTypeUrl() != delta.TypeSecret.URL() {
			c.t.Fatalf("got a %s of %d resources, want nothing", m.GetTypeUrl(), len(m.GetResources()))
		}
		c.ack(delta.TypeSecret, m, "identity")
	case <-ctx.Done():
		c.t.Fatal("no secret")
	}
}

// TestWholeWildcard: "*" is all by name, beside other names too; without it again, what is named is left.
func TestWholeWildcard(t *testing.T) {
	r := newRig(t)
	r.engine.set(t, services("a", "b"))
	c := r.whole(t, "tool", nil)
	c.ask(delta.TypeCluster, "*")
	m := c.take(delta.TypeCluster, "a", "b")
	c.ack(delta.TypeCluster, m, "*")
	c.ack(delta.TypeCluster, m, "*", "b")
	m = c.take(delta.TypeCluster, "a", "b") // who subscribes to a name gets it, whatever it was sent before
	c.ack(delta.TypeCluster, m, "*", "b")
	c.ack(delta.TypeCluster, m, "b")
	c.nothing()
	w := services("a", "b")
	w.clusters["a"], w.clusters["b"] = 2, 2
	r.engine.set(t, w)
	c.ack(delta.TypeCluster, c.take(delta.TypeCluster, "b"), "b")
	c.nothing()
}

// TestWholeNoNames: no names are all only at first, and only for clusters and listeners.
func TestWholeNoNames(t *testing.T) {
	r := newRig(t)
	r.engine.set(t, services("a"))
	c := r.whole(t, "tool", nil)
	c.ask(delta.TypeEndpoint)
	c.ask(delta.TypeRoute)
	c.ask(delta.TypeCluster, "a")
	m := c.take(delta.TypeCluster, "a")
	c.ack(delta.TypeCluster, m, "a")
	c.ack(delta.TypeCluster, m)
	c.nothing()
	w := services("a")
	w.clusters["a"], w.endpoints["a"], w.routes["a"] = 2, 2, 2
	r.engine.set(t, w)
	c.nothing()
}

// TestWholeSameNames: names once more, in another order or twice, are nothing new; an unknown type
// does not end the stream.
func TestWholeSameNames(t *testing.T) {
	r := newRig(t)
	r.engine.set(t, services("a", "b"))
	c := r.whole(t, "tool", nil)
	c.ask(delta.TypeEndpoint, "a", "b", "a")
	m := c.take(delta.TypeEndpoint, "a", "b")
	c.ack(delta.TypeEndpoint, m, "b", "a")
	c.ack(delta.TypeEndpoint, m, "b", "a", "b", "b")
	if err := c.stream.Send(
		&discoveryv3.DiscoveryRequest{
			TypeUrl: "type.googleapis.com/envoy.service.runtime.v3.Runtime"}); err != nil {
		t.Fatal(err)
	}
	c.nothing()
}

// TestWholeReconnect: the version and the nonce of an older stream say nothing: all is sent, and
// until it is answered the change is not with the client.
func TestWholeReconnect(t *testing.T) {
	r := newRig(t)
	rev := r.engine.set(t, services("a"))
	old := r.whole(t, "envoy", nil)
	old.ask(delta.TypeCluster)
	m := old.take(delta.TypeCluster, "a")
	old.ack(delta.TypeCluster, m)
	r.engine.answered(t, rev)
	if err := old.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	<-r.gate.left
	c := r.whole(t, "envoy", nil)
	req := &discoveryv3.DiscoveryRequest{
		Node:          c.node,
		TypeUrl:       delta.TypeCluster.URL(),
		VersionInfo:   m.GetVersionInfo(),
		ResponseNonce: m.GetNonce(),
	}
	if err := c.stream.Send(req); err != nil {
		t.Fatal(err)
	}
	again := c.take(delta.TypeCluster, "a")
	if again.GetVersionInfo() != m.GetVersionInfo() {
		t.Error("the same content has another version")
	}
	r.engine.watch(t, func(f *watch) bool {
		if f.answered >= rev {
			t.Error("the first request of a stream counts as an answer")
		}
		return true
	})
	c.ack(delta.TypeCluster, again)
	r.engine.answered(t, rev)
}

// TestWholeNeverAnswers: a client that does not answer is sent a bounded number of responses;
// changes merge meanwhile, and an answer to the last one answers all before it.
func TestWholeNeverAnswers(t *testing.T) {
	r := newRig(t)
	w := services("a")
	r.engine.set(t, w)
	c := r.whole(t, "envoy", nil)
	c.ask(delta.TypeCluster)
	last := c.take(delta.TypeCluster, "a")
	rev := uint64(0)
	for range 50 {
		w = w.clone()
		w.clusters["a"]++
		rev = r.engine.set(t, w)
	}
	c.nothing() // a name is in one unanswered response at a time
	c.ack(delta.TypeCluster, last)
	last = c.take(delta.TypeCluster, "a")
	c.ack(delta.TypeCluster, last)
	r.engine.answered(t, rev)
	for i := range 50 { // names that were in none may go in further ones, up to a bound
		w = w.clone()
		w.clusters[fmt.Sprint("n", i)] = 1
		rev = r.engine.set(t, w)
	}
	n := 0
	for m := range c.got {
		if m.GetTypeUrl() != delta.TypeCluster.URL() {
			t.Fatalf("got a %s", m.GetTypeUrl())
		}
		n++
		if len(m.GetResources()) == len(w.clusters) {
			c.ack(delta.TypeCluster, m)
			break
		}
		if n%4 == 0 {
			c.ack(delta.TypeCluster, m)
		}
	}
	r.engine.answered(t, rev)
	if n > 50 {
		t.Errorf("%d responses for 50 changes", n)
	}
}

// TestSotWRejectsEverything: a client that rejects whatever it gets is not sent the same again and again.
func TestSotWRejectsEverything(t *testing.T) {
	r := newRig(t)
	rev := r.engine.set(t, services("a", "b", "c", "d", "e"))
	c := r.whole(t, "envoy", nil)
	c.ask(delta.TypeCluster)
	done := make(chan int)
	stop := make(chan struct{})
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case m := <-c.got:
				n++
				if err := c.stream.Send(&discoveryv3.DiscoveryRequest{
					TypeUrl:       m.GetTypeUrl(),
					ResponseNonce: m.GetNonce(),
					ErrorDetail:   &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: "no"},
				}); err != nil {
					return
				}
			case <-stop:
				return
			}
		}
	}()
	r.engine.wait(t, "all are rejected",
		func(a uint64, list []delta.Rejection) bool { return a == rev && len(list) == 5 })
	close(stop)
	if n := <-done; n > 12 {
		t.Errorf("%d responses for five resources that are rejected", n)
	}
	c.nothing()
}
