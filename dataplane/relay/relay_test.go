package relay

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	statusv3 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// conversation is one stream as the zone has it.
type conversation struct {
	grpc.ServerStream
	token string
	ended chan error // what the test sends ends the stream
}

func (c *conversation) receive(t testing.TB) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	var m message
	if err := c.RecvMsg(&m); err != nil {
		t.Fatal(err)
	}
	return decode[discoveryv3.DeltaDiscoveryRequest](t, m.data)
}

func (c *conversation) send(t testing.TB, r *discoveryv3.DeltaDiscoveryResponse) {
	t.Helper()
	if err := c.SendMsg(&message{data: encode(t, r)}); err != nil {
		t.Fatal(err)
	}
}

// zone is one that a test scripts.
type zone struct {
	address string
	server  *grpc.Server
	streams chan *conversation
	done    chan struct{}
}

func startZone(t testing.TB, address string) *zone {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{address: l.Addr().String(), streams: make(chan *conversation, 10), done: make(chan struct{})}
	z.server = grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.MaxRecvMsgSize(maxMessage),
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(s.Context())
			c := &conversation{ServerStream: s, token: md.Get("authorization")[0], ended: make(chan error, 1)}
			z.streams <- c
			select {
			case err := <-c.ended:
				return err
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}))
	go func() { _ = z.server.Serve(l); close(z.done) }()
	t.Cleanup(z.stop)
	return z
}

func (z *zone) stop() {
	z.server.Stop()
	<-z.done
}

func receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

func decode[M any, P interface {
	*M
	proto.Message
}](t testing.TB, b []byte) P {
	t.Helper()
	m := P(new(M))
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// setting is a relay with its cache, for a zone that may not be there.
type setting struct {
	*Relay
	socket string
}

func startRelay(t testing.TB, address, dir string, change ...func(*Config)) *setting {
	t.Helper()
	zone, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Socket: filepath.Join(dir, "ads", "sock"),
		Zone:   zone,
		Token:  func() string { return "token" },
		Cache:  open(t, filepath.Join(dir, "cache")),
	}
	for _, f := range change {
		f(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = zone.Close()
	})
	return &setting{Relay: r, socket: cfg.Socket}
}

// dir is a folder whose name is short enough for sockets.
func dir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "relay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(d) })
	return d
}

// envoy is a stream as Envoy has it.
type envoy struct {
	grpc.ClientStream
	end func()
}

func connect(t testing.TB, socket string) *envoy {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method,
		grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		t.Fatal(err)
	}
	e := &envoy{ClientStream: s, end: func() { cancel(); _ = conn.Close() }}
	t.Cleanup(e.end)
	return e
}

func (e *envoy) send(t testing.TB, r *discoveryv3.DeltaDiscoveryRequest) {
	t.Helper()
	if err := e.SendMsg(&message{data: encode(t, r)}); err != nil {
		t.Fatal(err)
	}
}

func (e *envoy) receive(t testing.TB) *discoveryv3.DeltaDiscoveryResponse {
	t.Helper()
	var m message
	if err := e.RecvMsg(&m); err != nil {
		t.Fatal(err)
	}
	return decode[discoveryv3.DeltaDiscoveryResponse](t, m.data)
}

// fails waits for the end of the stream.
func (e *envoy) fails(t *testing.T) error {
	t.Helper()
	for {
		var m message
		if err := e.RecvMsg(&m); err != nil {
			return err
		}
	}
}

// asks is a request that subscribes.
func asks(url string, names ...string) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: names}
}

// holding is the first request of an Envoy that has something.
func holding(url string, versions map[string]string) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, InitialResourceVersions: versions}
}

func answer(r *discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
}

func gives(url, nonce string, namesAndVersions ...string) *discoveryv3.DeltaDiscoveryResponse {
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: nonce}
	for i := 0; i < len(namesAndVersions); i += 2 {
		r.Resources = append(r.Resources, &discoveryv3.Resource{
			Name:    namesAndVersions[i],
			Version: namesAndVersions[i+1],
		})
	}
	return r
}

// names of what a response has, sorted, with their versions.
func names(r *discoveryv3.DeltaDiscoveryResponse) string {
	var out []string
	for _, res := range r.GetResources() {
		out = append(out, res.GetName()+"="+res.GetVersion())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// fill has an Envoy acknowledge clusters a and b and the endpoints of a, and reject the next a.
func fill(t testing.TB, z *zone, s *setting) *envoy {
	t.Helper()
	e := connect(t, s.socket)
	e.send(t, asks(clusters))
	c := receive(t, "the stream", z.streams)
	c.receive(t)
	c.send(t, gives(clusters, "n1", "a", "1", "b", "1"))
	e.send(t, answer(e.receive(t)))
	c.receive(t)
	e.send(t, asks(endpoints, "a"))
	c.receive(t)
	c.send(t, gives(endpoints, "n2", "a", "7"))
	e.send(t, answer(e.receive(t)))
	c.receive(t)
	c.send(t, gives(clusters, "n3", "a", "2"))
	nack := answer(e.receive(t))
	nack.ErrorDetail = &statusv3.Status{Message: "no"}
	e.send(t, nack)
	if c.receive(t).GetErrorDetail().GetMessage() != "no" {
		t.Error("the zone did not get the rejection")
	}
	// What the zone hears of the next request says that the former one was noted.
	e.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters})
	c.receive(t)
	return e
}

func TestCarriesAndRemembers(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	d := dir(t)
	s := startRelay(t, z.address, d)
	for path, mode := range map[string]os.FileMode{s.socket: 0o600, filepath.Dir(s.socket): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v (%v), must have %v", path, info.Mode(), err, mode)
		}
	}
	e := fill(t, z, s)
	e.end()

	// The zone is gone, and Envoy starts again.
	z.stop()
	e = connect(t, s.socket)
	e.send(t, asks(clusters))
	if got := names(e.receive(t)); got != "a=1 b=1" {
		t.Errorf("clusters: %s", got)
	}
	e.send(t, asks(endpoints, "a", "b"))
	r := e.receive(t)
	if names(r) != "a=7" || !slices.Equal(r.GetRemovedResources(), []string{"b"}) {
		t.Errorf("endpoints: %v", r)
	}
	e.send(t, answer(r))

	s.SetLive(true)

	// It comes back: the stream ends, and the next one says to the zone what Envoy holds.
	z = startZone(t, z.address)
	if err := e.fails(t); status.Code(err) != codes.Unavailable {
		t.Errorf("ended with %v", err)
	}
	e = connect(t, s.socket)
	e.send(t, holding(clusters, map[string]string{"a": "1", "b": "1"}))
	c := receive(t, "the stream after the restart", z.streams)
	if got := c.receive(t).GetInitialResourceVersions(); len(got) != 2 || got["a"] != "1" {
		t.Errorf("the zone hears that Envoy holds %v", got)
	}
	// What Envoy holds and the cache does not have is asked for again.
	e.send(t, holding(endpoints, map[string]string{"a": "8"}))
	if got, ok := c.receive(t).GetInitialResourceVersions()["a"]; !ok || got != "" {
		t.Errorf("the zone hears of version %q", got)
	}
}

// TestServesAfterItsOwnRestart: another relay on the same folder serves what the former one's Envoy had.
func TestServesAfterItsOwnRestart(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	d := dir(t)
	t.Run("first", func(t *testing.T) { fill(t, z, startRelay(t, z.address, d)) })
	z.stop()
	s := startRelay(t, z.address, d)
	e := connect(t, s.socket)
	e.send(t, asks(clusters))
	if got := names(e.receive(t)); got != "a=1 b=1" {
		t.Errorf("clusters: %s", got)
	}
}

func TestRunningEnvoyIsSentNothingTwice(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	s := startRelay(t, z.address, dir(t))
	fill(t, z, s).end()
	s.SetLive(true)
	z.stop()
	e := connect(t, s.socket)
	e.send(t, holding(clusters, map[string]string{"a": "newer", "b": "1"}))
	subscribe := holding(endpoints, map[string]string{"b": "3"})
	subscribe.ResourceNamesSubscribe = []string{"a", "b", "warming"}
	e.send(t, subscribe)
	// It gets the one thing that it does not hold, and does not hear that others are gone.
	r := e.receive(t)
	if r.GetTypeUrl() != endpoints || names(r) != "a=7" || len(r.GetRemovedResources()) > 0 {
		t.Errorf("got %v", r)
	}
}

// TestWhatTheZoneNoLongerGivesIsForgotten: it removed a cluster while no Envoy was there.
func TestWhatTheZoneNoLongerGivesIsForgotten(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	s := startRelay(t, z.address, dir(t))
	fill(t, z, s).end()
	e := connect(t, s.socket)
	e.send(t, asks(clusters))
	c := receive(t, "the stream", z.streams)
	c.receive(t)
	c.send(t, gives(clusters, "n1", "a", "3"))
	e.send(t, answer(e.receive(t)))
	c.receive(t)
	e.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters})
	c.receive(t)
	if n := s.cfg.Cache.Len(); n != 3 {
		t.Errorf("before Envoy is live %d resources are kept, must be 3", n)
	}
	s.SetLive(true)
	got := s.cfg.Cache.read(clusters, func(string) bool { return true })
	if len(got) != 1 || got[0].version != "3" {
		t.Errorf("kept are %v", got)
	}
}

func TestTokenOfEachStream(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	tokens := make(chan string, 2)
	tokens <- "old"
	tokens <- "new"
	s := startRelay(t, z.address, dir(t), func(c *Config) { c.Token = func() string { return <-tokens } })
	for _, want := range []string{"old", "new"} {
		e := connect(t, s.socket)
		e.send(t, asks(clusters))
		if got := receive(t, "the stream", z.streams).token; got != want {
			t.Errorf("token %q, must be %q", got, want)
		}
		e.end()
	}
}

func TestZoneThatDoesNotAnswer(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	s := startRelay(t, z.address, dir(t), func(c *Config) { c.silence = 300 * time.Millisecond })
	fill(t, z, s).end()
	t.Run("silent", func(t *testing.T) {
		e := connect(t, s.socket)
		e.send(t, asks(clusters))
		receive(t, "the stream", z.streams)
		if err := e.fails(t); status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
		e = connect(t, s.socket)
		e.send(t, asks(clusters))
		if got := names(e.receive(t)); got != "a=1 b=1" {
			t.Errorf("clusters: %s", got)
		}
		s.SetLive(true)
		_ = e.fails(t) // the zone is tried again
		s.SetLive(false)
	})
	t.Run("silent to an Envoy that has a part", func(t *testing.T) {
		e := connect(t, s.socket)
		e.send(t, holding(clusters, map[string]string{"a": "1"}))
		for len(z.streams) > 0 {
			<-z.streams
		}
		if err := e.fails(t); status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
		e = connect(t, s.socket)
		e.send(t, holding(clusters, map[string]string{"a": "1"}))
		if got := names(e.receive(t)); got != "b=1" {
			t.Errorf("clusters: %s", got)
		}
		s.SetLive(true)
		_ = e.fails(t)
		s.SetLive(false)
	})
	t.Run("not ready", func(t *testing.T) {
		for tries := 0; ; tries++ {
			e := connect(t, s.socket)
			e.send(t, asks(clusters))
			var m message
			err := e.RecvMsg(&m)
			if err == nil {
				if got := names(decode[discoveryv3.DeltaDiscoveryResponse](t, m.data)); got != "a=1 b=1" {
					t.Errorf("clusters: %s", got)
				}
				break
			}
			if tries > 1 {
				t.Fatalf("Envoy gets %v and nothing else", err)
			}
			select {
			case c := <-z.streams:
				c.ended <- status.Error(codes.NotFound, "this zone has not heard of the mesh yet")
			default:
			}
		}
	})
}

// TestRefusalIsObeyed: the zone says that this proxy is not wanted.
func TestRefusalIsObeyed(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	s := startRelay(t, z.address, dir(t))
	fill(t, z, s).end()
	for range 3 {
		e := connect(t, s.socket)
		e.send(t, asks(clusters))
		c := receive(t, "the stream", z.streams)
		c.ended <- status.Error(codes.PermissionDenied, "revoked")
		var m message
		if err := e.RecvMsg(&m); status.Code(err) != codes.PermissionDenied {
			t.Errorf("Envoy gets %v, %v", m, err)
		}
		e.end()
	}
}

func TestEmptyCacheWaitsForTheZone(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	z.stop()
	s := startRelay(t, z.address, dir(t))
	e := connect(t, s.socket)
	e.send(t, asks(clusters))
	if err := e.fails(t); status.Code(err) != codes.Unavailable {
		t.Errorf("ended with %v", err)
	}
}

// TestGarbageOfTheZone passes through and is not remembered.
func TestGarbageOfTheZone(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	s := startRelay(t, z.address, dir(t))
	e := connect(t, s.socket)
	e.send(t, asks(clusters))
	c := receive(t, "the stream", z.streams)
	c.receive(t)
	for _, data := range [][]byte{
		{0xff, 0xff, 0xff}, {}, encode(t, gives(clusters, "", "a", "1")),
		append(encode(t, gives(clusters, "n1", "a", "1")), 0x12, 0x7f),
		encode(t, gives(endpoints, "n2", "a", "1")),
	} {
		if err := c.SendMsg(&message{data: data}); err != nil {
			t.Fatal(err)
		}
		var m message
		if err := e.RecvMsg(&m); err != nil || string(m.data) != string(data) {
			t.Fatalf("got %x (%v), sent was %x", m.data, err, data)
		}
		for _, nonce := range []string{"", "n1", "n2", "n3"} {
			e.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters, ResponseNonce: nonce})
			c.receive(t)
		}
	}
	e.send(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters})
	c.receive(t)
	if n := s.cfg.Cache.Len(); n != 0 {
		t.Errorf("%d resources are kept", n)
	}
}

// TestBackpressure: an Envoy that does not read, or does not answer, stops the zone.
func TestBackpressure(t *testing.T) {
	for name, reads := range map[string]bool{"does not read": false, "does not answer": true} {
		t.Run(name, func(t *testing.T) {
			z := startZone(t, "127.0.0.1:0")
			s := startRelay(t, z.address, dir(t))
			e := connect(t, s.socket)
			e.send(t, asks(clusters))
			c := receive(t, "the stream", z.streams)
			c.receive(t)
			if reads {
				go func() { _ = e.fails(t) }()
			}
			big := gives(clusters, "", "a", strings.Repeat("v", 1<<20))
			sent := make(chan int)
			go func() {
				defer close(sent)
				for i := range 500 {
					big.Nonce = strings.Repeat("n", i+1)
					if c.SendMsg(&message{data: encode(t, big)}) != nil {
						return
					}
					select {
					case sent <- i:
					case <-c.Context().Done():
						return
					}
				}
			}()
			n, stopped := 0, false
			for !stopped {
				select {
				case n = <-sent:
				case <-time.After(2 * time.Second):
					stopped = true
				}
			}
			if n > maxPending>>20+10 {
				t.Errorf("%d MiB were taken", n)
			}
			e.end()
			for range sent {
			}
		})
	}
}

func TestOtherMethodsAreNotServed(t *testing.T) {
	z := startZone(t, "127.0.0.1:0")
	s := startRelay(t, z.address, dir(t))
	conn, err := grpc.NewClient("unix:"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	err = conn.Invoke(t.Context(), "/meridian.dataplane.v1.DataplaneService/Session", &message{}, &message{},
		grpc.ForceCodecV2(codec{}))
	if status.Code(err) != codes.Unimplemented || len(z.streams) > 0 {
		t.Errorf("got %v", err)
	}
}
