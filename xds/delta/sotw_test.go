package delta_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/xds/delta"
)

// whole is a state-of-the-world client that does only what a test says. Its goroutine receives; the
// test takes.
type whole struct {
	t      *testing.T
	stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	got    chan *discoveryv3.DiscoveryResponse
	node   *corev3.Node
}

func (r *rig) whole(t *testing.T, agent string, meta map[string]any) *whole {
	t.Helper()
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(credentials.NewTLS(r.config().TLS)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization",
		"good"))
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := structpb.NewStruct(meta)
	if err != nil {
		t.Fatal(err)
	}
	c := &whole{
		t:      t,
		stream: s,
		got:    make(chan *discoveryv3.DiscoveryResponse, 100),
		node:   &corev3.Node{Id: "default.web", UserAgentName: agent, Metadata: fields},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(c.got)
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			c.got <- m
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *whole) ask(t delta.Type, names ...string) { c.send(t, "", nil, names) }

func (c *whole) send(t delta.Type, nonce string, detail *rpcstatus.Status, names []string) {
	c.t.Helper()
	req := &discoveryv3.DiscoveryRequest{
		Node:          c.node,
		TypeUrl:       t.URL(),
		ResponseNonce: nonce,
		ResourceNames: names,
		ErrorDetail:   detail,
	}
	c.node = nil
	if err := c.stream.Send(req); err != nil {
		c.t.Fatal(err)
	}
}

// take receives the next response, which must be of the type and hold the names.
func (c *whole) take(t delta.Type, names ...string) *discoveryv3.DiscoveryResponse {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), wireTimeout)
	defer cancel()
	var m *discoveryv3.DiscoveryResponse
	select {
	case m = <-c.got:
	case <-ctx.Done():
	}
	if m == nil {
		c.t.Fatalf("no response, want %s %v", t, names)
	}
	if m.GetTypeUrl() != t.URL() || m.GetNonce() == "" || m.GetVersionInfo() == "" {
		c.t.Fatalf("got %s version %q nonce %q, want %s %v", m.GetTypeUrl(), m.GetVersionInfo(), m.GetNonce(),
			t, names)
	}
	var got []string
	for _, any := range m.GetResources() {
		if any.GetTypeUrl() != t.URL() {
			c.t.Fatalf("a %s holds a %s", t, any.GetTypeUrl())
		}
		r, err := any.UnmarshalNew()
		if err != nil {
			c.t.Fatal(err)
		}
		field := r.ProtoReflect().Descriptor().Fields().ByNumber(1) // the name, of all types
		got = append(got, r.ProtoReflect().Get(field).String())
	}
	if slices.Sort(got); !slices.Equal(got, names) {
		c.t.Fatalf("%s %v, want %v", t, got, names)
	}
	return m
}

func (c *whole) ack(t delta.Type, m *discoveryv3.DiscoveryResponse, names ...string) {
	c.t.Helper()
	c.send(t, m.GetNonce(), nil, names)
}

func TestWholeWorld(t *testing.T) {
	r := newRig(t)
	w := services("a", "b")
	r.engine.set(t, w)
	c := r.whole(t, "envoy", nil)
	c.ask(delta.TypeCluster)
	first := c.take(delta.TypeCluster, "a", "b")
	c.ack(delta.TypeCluster, first)
	c.ask(delta.TypeEndpoint, "a", "b")
	c.ack(delta.TypeEndpoint, c.take(delta.TypeEndpoint, "a", "b"), "a", "b")
	c.ask(delta.TypeListener)
	c.ack(delta.TypeListener, c.take(delta.TypeListener, "a", "b"))
	c.ask(delta.TypeRoute, "a")
	c.ack(delta.TypeRoute, c.take(delta.TypeRoute, "a"), "a")
	rev := r.engine.set(t, w)
	r.engine.answered(t, rev)

	// A change of endpoints goes alone; one of a cluster brings all clusters.
	w = w.clone()
	w.endpoints["b"]++
	rev = r.engine.set(t, w)
	c.ack(delta.TypeEndpoint, c.take(delta.TypeEndpoint, "b"), "a", "b")
	r.engine.answered(t, rev)
	w = w.clone()
	w.clusters["a"]++
	rev = r.engine.set(t, w)
	second := c.take(delta.TypeCluster, "a", "b")
	if second.GetVersionInfo() == first.GetVersionInfo() || second.GetNonce() == first.GetNonce() {
		t.Fatal("another content has the version or the nonce of old")
	}
	c.ack(delta.TypeCluster, second)
	c.ack(delta.TypeEndpoint, c.take(delta.TypeEndpoint, "a"), "a", "b") // the new cluster waits for them
	r.engine.answered(t, rev)

	// Removed: listeners first, then clusters; a response cannot take routes and endpoints away,
	// and none is owed.
	b := services("b")
	b.endpoints["b"] = w.endpoints["b"]
	rev = r.engine.set(t, b)
	c.ack(delta.TypeListener, c.take(delta.TypeListener, "b"))
	c.ack(delta.TypeCluster, c.take(delta.TypeCluster, "b"))
	r.engine.answered(t, rev)

	// The content of old has the version of old.
	c.send(delta.TypeEndpoint, "", nil, []string{"b"})
	w.clusters["a"] = 1
	r.engine.set(t, w)
	if again := c.take(delta.TypeCluster, "a", "b"); again.GetVersionInfo() != first.GetVersionInfo() {
		t.Fatal("the version is not of the content")
	}
}

func TestWholeNamesAndStaleNonces(t *testing.T) {
	r := newRig(t)
	r.engine.set(t, services("a", "b", "c"))
	c := r.whole(t, "tool", nil)
	c.ask(delta.TypeCluster, "a", "nothing")
	m := c.take(delta.TypeCluster, "a")
	c.ack(delta.TypeCluster, m, "a", "nothing")
	// More names: all that are subscribed to. A stale nonce answers nothing, yet its names count.
	c.ack(delta.TypeCluster, m, "a", "b", "nothing")
	second := c.take(delta.TypeCluster, "a", "b")
	c.send(delta.TypeCluster, "stale", &rpcstatus.Status{Message: "a"}, []string{"a", "b", "c"})
	c.ack(delta.TypeCluster, second, "a", "b", "c")
	c.ack(delta.TypeCluster, c.take(delta.TypeCluster, "a", "b", "c"), "a", "b", "c")
	// Fewer names: nothing is sent. Then, of changes, only of what is still wanted.
	c.ack(delta.TypeCluster, second, "b")
	c.ask(delta.TypeEndpoint, "c")
	c.ack(delta.TypeEndpoint, c.take(delta.TypeEndpoint, "c"), "c")
	w := services("a", "b", "c")
	w.clusters["a"]++
	r.engine.set(t, w)
	w = w.clone()
	w.clusters["b"]++
	rev := r.engine.set(t, w)
	c.ack(delta.TypeCluster, c.take(delta.TypeCluster, "b"), "b")
	r.engine.answered(t, rev)
	// No names after some: none, not all.
	c.send(delta.TypeCluster, "", nil, nil)
	c.send(delta.TypeEndpoint, "", nil, []string{"a", "c"})
	c.take(delta.TypeEndpoint, "a")
	select {
	case m := <-c.got:
		t.Fatalf("got %v", m)
	default:
	}
}

// TestSotWRejection: what is rejected is not sent until its content changes; the client is sent the
// last good one beside it.
func TestSotWRejection(t *testing.T) {
	r := newRig(t)
	w := services("a", "b")
	rev := r.engine.set(t, w)
	c := r.whole(t, "envoy", nil)
	c.ask(delta.TypeCluster)
	m := c.take(delta.TypeCluster, "a", "b")
	c.ack(delta.TypeCluster, m)
	r.engine.answered(t, rev)
	good := m.GetResources()[0]
	w = w.clone()
	w.clusters["a"] = 7
	rev = r.engine.set(t, w)
	bad := c.take(delta.TypeCluster, "a", "b")
	c.send(delta.TypeCluster, bad.GetNonce(), &rpcstatus.Status{
		Code:    int32(codes.InvalidArgument),
		Message: "cluster a: no",
	}, nil)
	r.engine.wait(t, "a is rejected", func(a uint64, list []delta.Rejection) bool {
		return a >= rev && len(list) == 1 && list[0].Resource == "a" && list[0].Reason == "cluster a: no"
	})
	// Another change does not bring it again.
	w = w.clone()
	w.clusters["b"] = 2
	rev = r.engine.set(t, w)
	m = c.take(delta.TypeCluster, "a", "b")
	if !proto.Equal(m.GetResources()[0], good) {
		t.Fatal("the rejected content was sent again, want the last good one")
	}
	c.ack(delta.TypeCluster, m)
	r.engine.wait(t, "a is still rejected",
		func(a uint64, list []delta.Rejection) bool { return a >= rev && len(list) == 1 })
	w = w.clone()
	w.clusters["a"] = 8
	rev = r.engine.set(t, w)
	c.ack(delta.TypeCluster, c.take(delta.TypeCluster, "a", "b"))
	r.engine.answered(t, rev)
}

// TestWholeCaller: a gRPC client's listeners wait for the engine, which hears their names.
func TestWholeCaller(t *testing.T) {
	r := newRig(t)
	c := r.whole(t, "gRPC Go", map[string]any{"dataplane.certificateProvider": "mesh"})
	c.ask(delta.TypeListener, "x", "y")
	r.engine.watch(t, func(f *watch) bool { return slices.Equal(f.wanted, []string{"x", "y"}) })
	if got := r.engine.watches[0].opening.Client; got != (delta.Client{
		Kind:                delta.ClientGRPC,
		CertificateProvider: "mesh",
	}) {
		t.Fatalf("opened as %+v", got)
	}
	if j := r.gate.joins[0]; j.Delta || j.UserAgent != "gRPC Go" {
		t.Fatalf("joined as %+v", j)
	}
	rev := r.engine.set(t, services("x"))
	m := c.take(delta.TypeListener, "x")
	c.ack(delta.TypeListener, m, "x", "y")
	r.engine.answered(t, rev)
	c.ack(delta.TypeListener, m, "y", "z")
	r.engine.watch(t, func(f *watch) bool { return slices.Equal(f.wanted, []string{"y", "z"}) })
	c.take(delta.TypeListener)
	c.ask(delta.TypeRoute, "x")
	c.take(delta.TypeRoute, "x")

	bad := r.whole(t, "", map[string]any{"dataplane.client": "nginx"})
	bad.ask(delta.TypeListener)
	if m, ok := <-bad.got; ok {
		t.Fatalf("an unknown client got %v", m)
	}
	if err := r.whole(t, "gRPC Go",
		map[string]any{"dataplane.client": "envoy"}).stream.CloseSend(); err != nil &&
		!errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
