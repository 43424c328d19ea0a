package xdstest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/xds/references"
)

// Config of a [Client].
type Config struct {
	// Address of the server, host:port.
	Address string
	// TLS to use; nil is plain text.
	TLS *tls.Config
	// Token for the header authorization, if any.
	Token string
	// NodeID is "<mesh>.<name>"; Metadata are string fields of the node's metadata.
	NodeID   string
	Metadata map[string]string
	// References to share between clients; nil makes own ones.
	References *references.Index
	// MaxMessage is the largest message that the client takes, in bytes; 0 is 4 MiB, as of gRPC libraries.
	MaxMessage int
	// Verdict, if set, decides on each response before it is applied. It is called by the goroutine of Run.
	Verdict func(Response) Verdict
}

// Verdict says what to do with a response. The zero Verdict takes it.
type Verdict struct {
	// Reject, if not empty, is the text of a NACK. Of what was refused Good is applied nevertheless, by name.
	Reject string
	Good   []string
	// Silent leaves the response without an answer.
	Silent bool
}

// Client is one stand-in.
type Client struct {
	config Config

	mu      sync.Mutex
	state   State              // guarded by mu
	changed chan struct{}      // guarded by mu; closed at the next change
	stream  grpc.ClientStream  // guarded by mu; nil while not connected
	gate    chan struct{}      // guarded by mu; not nil while paused
	counts  map[string]Counter // guarded by mu
}

// State is what a client holds. Maps are by type URL.
type State struct {
	// Resources by type and name.
	Resources map[string]map[string]Resource
	// Subscribed counts, by type and name, the resources that refer to a name that is asked for.
	Subscribed map[string]map[string]int
	// Absent are names of which the server said that there is none.
	Absent map[string]map[string]bool
	// Warming are clusters whose endpoints have not arrived since they did.
	Warming map[string]bool
	// Broken says what would have broken traffic.
	Broken []string
	// Log are the last responses in order of arrival: "cluster+a+b-c" brings a and b and takes c;
	// refused ones end with "!".
	Log []string
	// Connected counts streams that were opened.
	Connected int

	refs map[string]map[string]*references.Names
	// turned is, for the response at hand, by type and name: 1 if the name came to be wanted, -1 if
	// it ceased to be, 0 if it did both.
	turned map[string]map[string]int
	// odd counts clusters that were ever held whose endpoints have another name than they: while
	// there are none, warming is looked up instead of searched.
	odd int
}

// interests are the types that others refer to.
// Type URLs of the resources that a client follows.
const (
	Cluster  = references.Cluster
	Endpoint = references.Endpoint
	Listener = references.Listener
	Route    = references.Route
	Secret   = references.Secret
)

var interests = []string{Endpoint, Route, Secret}

// Counter counts what came in of one type.
type Counter struct{ Responses, Resources, Removed, Bytes int }

// New makes a client; [Client.Run] connects it.
func New(c Config) *Client {
	if c.MaxMessage == 0 {
		c.MaxMessage = 4 << 20
	}
	if c.References == nil {
		c.References = &references.Index{}
	}
	s := State{
		Resources:  map[string]map[string]Resource{},
		Subscribed: map[string]map[string]int{},
		Absent:     map[string]map[string]bool{},
		Warming:    map[string]bool{},
		refs:       map[string]map[string]*references.Names{},
		turned:     map[string]map[string]int{},
	}
	for _, t := range []string{Cluster, Endpoint, Listener, Route, Secret} {
		s.Resources[t], s.Subscribed[t] = map[string]Resource{}, map[string]int{}
		s.Absent[t], s.turned[t] = map[string]bool{}, map[string]int{}
		s.refs[t] = map[string]*references.Names{}
	}
	return &Client{
		config:  c,
		state:   s,
		changed: make(chan struct{}),
		counts:  map[string]Counter{},
	}
}

// Run keeps one stream until it ends, and returns why; nil if ctx ended it. Called again, it
// reconnects with the versions that the client holds.
func (c *Client) Run(ctx context.Context) error {
	creds := insecure.NewCredentials()
	if c.config.TLS != nil {
		creds = credentials.NewTLS(c.config.TLS)
	}
	conn, err := grpc.NewClient("passthrough:///"+c.config.Address, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newRawCodec()),
			grpc.MaxCallRecvMsgSize(c.config.MaxMessage)),
		grpc.WithReadBufferSize(4<<10), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outer := ctx
	if c.config.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", c.config.Token)
	}
	desc := &grpc.StreamDesc{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, desc,
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources")
	if err == nil {
		err = c.talk(ctx, stream)
	}
	c.mu.Lock()
	c.stream = nil
	c.mu.Unlock()
	if outer.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *Client) talk(ctx context.Context, stream grpc.ClientStream) error {
	c.mu.Lock()
	c.stream = stream
	c.state.Connected++
	hello := c.hello()
	c.notifyLocked()
	c.mu.Unlock()
	for _, req := range hello {
		if err := c.Send(req); err != nil {
			return c.cause(stream, err)
		}
	}
	for {
		c.mu.Lock()
		gate := c.gate
		c.mu.Unlock()
		if gate != nil {
			select {
			case <-gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var raw []byte
		if err := stream.RecvMsg(&raw); err != nil {
			return err
		}
		r, err := decode(raw)
		if err != nil {
			return fmt.Errorf("decode response: %w", err)
		}
		requests, err := c.handle(r)
		if err != nil {
			return err
		}
		for _, req := range requests {
			if err := c.Send(req); err != nil {
				return c.cause(stream, err)
			}
		}
	}
}

// cause is why a stream ended on which a send failed.
func (c *Client) cause(stream grpc.ClientStream, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	for {
		var raw []byte
		if err := stream.RecvMsg(&raw); err != nil {
			return err
		}
	}
}

// hello are the first requests of a stream.
func (c *Client) hello() []*discoveryv3.DeltaDiscoveryRequest {
	var out []*discoveryv3.DeltaDiscoveryRequest
	for _, t := range []string{Cluster, Endpoint, Listener, Route, Secret} {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t, InitialResourceVersions: map[string]string{}}
		for name, r := range c.state.Resources[t] {
			req.InitialResourceVersions[name] = r.Version
		}
		if t != Cluster && t != Listener {
			if req.ResourceNamesSubscribe = slices.Sorted(maps.Keys(c.state.Subscribed[t])); len(
				req.ResourceNamesSubscribe) == 0 {
				continue
			}
		}
		if len(out) == 0 {
			req.Node = &corev3.Node{
				Id:            c.config.NodeID,
				UserAgentName: "xdstest",
				Metadata:      &structpb.Struct{Fields: map[string]*structpb.Value{}},
			}
			for k, v := range c.config.Metadata {
				req.Node.Metadata.Fields[k] = structpb.NewStringValue(v)
			}
		}
		out = append(out, req)
	}
	return out
}

// Send sends any request on the present stream.
func (c *Client) Send(req *discoveryv3.DeltaDiscoveryRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream == nil {
		return errors.New("not connected")
	}
	return c.stream.SendMsg(req)
}

// Pause stops reading after the response that is being read; Resume goes on.
func (c *Client) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gate == nil {
		c.gate = make(chan struct{})
	}
}

// Resume ends a Pause.
func (c *Client) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gate != nil {
		close(c.gate)
		c.gate = nil
	}
}

// Wait blocks until f is true of the state; f must not keep it.
func (c *Client) Wait(ctx context.Context, f func(*State) bool) error {
	for {
		c.mu.Lock()
		ok, changed := f(&c.state), c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			return fmt.Errorf("%w; log: %v", ctx.Err(), c.state.Log)
		}
	}
}

// View calls f with the state; f must not keep it.
func (c *Client) View(f func(*State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.state)
}

// Counters are what came in since the start, by type URL.
func (c *Client) Counters() map[string]Counter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}

// Total is the sum of [Client.Counters].
func (c *Client) Total() Counter {
	var sum Counter
	for _, n := range c.Counters() {
		sum.Responses += n.Responses
		sum.Resources += n.Resources
		sum.Removed += n.Removed
		sum.Bytes += n.Bytes
	}
	return sum
}

func (c *Client) notifyLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// handle applies a response and returns what to send: new interest first, then the answer, as Envoy does.
func (c *Client) handle(r Response) ([]*discoveryv3.DeltaDiscoveryRequest, error) {
	var v Verdict
	if c.config.Verdict != nil {
		v = c.config.Verdict(r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.notifyLocked()
	n := c.counts[r.Type]
	n.Responses++
	n.Resources += len(r.Resources)
	n.Removed += len(r.Removed)
	n.Bytes += r.Bytes
	c.counts[r.Type] = n
	c.state.note(r, v)
	for _, t := range interests {
		clear(c.state.turned[t])
	}
	if err := c.apply(r, v); err != nil {
		return nil, err
	}
	var out []*discoveryv3.DeltaDiscoveryRequest
	for _, t := range interests {
		if len(c.state.turned[t]) == 0 {
			continue
		}
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t}
		for _, name := range slices.Sorted(maps.Keys(c.state.turned[t])) {
			switch c.state.turned[t][name] {
			case 1:
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, name)
			case -1:
				req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, name)
				delete(c.state.Resources[t], name)
				delete(c.state.Absent[t], name)
			}
		}
		if len(req.ResourceNamesSubscribe)+len(req.ResourceNamesUnsubscribe) > 0 {
			out = append(out, req)
		}
	}
	if !v.Silent {
		ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.Type, ResponseNonce: r.Nonce}
		if v.Reject != "" {
			ack.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: v.Reject}
		}
		out = append(out, ack)
	}
	return out, nil
}

// apply folds a response into the state.
func (c *Client) apply(r Response, v Verdict) error {
	s := &c.state
	for _, res := range r.Resources {
		if v.Reject != "" && !slices.Contains(v.Good, res.Name) {
			continue
		}
		found, err := c.config.References.Of(r.Type, res.Name, res.Version, res.Body)
		if err != nil {
			return fmt.Errorf("resource %s: %w", res.Name, err)
		}
		old, had := s.Resources[r.Type][res.Name]
		if r.Type == Cluster && (!had || old.Version != res.Version) && len(found.Subscribe[Endpoint]) > 0 {
			s.Warming[res.Name] = true
			if found.Subscribe[Endpoint][0] != res.Name {
				s.odd++
			}
		}
		s.Resources[r.Type][res.Name] = res
		delete(s.Absent[r.Type], res.Name)
		s.refer(r.Type, res.Name, found)
		if r.Type == Endpoint {
			s.warm(res.Name)
		}
		for _, cluster := range found.Clusters {
			switch _, ok := s.Resources[Cluster][cluster]; {
			case !ok:
				s.Broken = append(s.Broken,
					fmt.Sprintf("%s sends to cluster %s, which is not there", res.Name, cluster))
			case s.Warming[cluster]:
				s.Broken = append(s.Broken,
					fmt.Sprintf("%s sends to cluster %s, which still warms", res.Name, cluster))
			}
		}
	}
	if v.Reject != "" {
		return nil
	}
	for _, name := range r.Removed {
		_, had := s.Resources[r.Type][name]
		delete(s.Resources[r.Type], name)
		if r.Type != Cluster && r.Type != Listener {
			s.Absent[r.Type][name] = true
		}
		switch {
		case r.Type == Endpoint:
			s.warm(name)
		case r.Type == Cluster:
			delete(s.Warming, name)
		}
		s.refer(r.Type, name, nil)
		if r.Type == Cluster && had {
			for _, t := range []string{Listener, Route} {
				for from, refs := range s.refs[t] {
					if slices.Contains(refs.Clusters, name) {
						s.Broken = append(s.Broken,
							fmt.Sprintf("%s still sends to cluster %s, which was removed", from, name))
					}
				}
			}
		}
	}
	return nil
}

// warm ends the warming of the clusters that wait for endpoints of a name.
func (s *State) warm(endpoints string) {
	if s.odd == 0 {
		delete(s.Warming, endpoints)
		return
	}
	for cluster := range s.Warming {
		if r := s.refs[Cluster][cluster]; r != nil && slices.Contains(r.Subscribe[Endpoint], endpoints) {
			delete(s.Warming, cluster)
		}
	}
}

// refer replaces what a resource refers to.
func (s *State) refer(t, name string, now *references.Names) {
	old := s.refs[t][name]
	if now != nil {
		s.refs[t][name] = now
		for typ, names := range now.Subscribe {
			for _, n := range names {
				if s.Subscribed[typ][n]++; s.Subscribed[typ][n] == 1 {
					s.turned[typ][n]++
				}
			}
		}
	} else {
		delete(s.refs[t], name)
	}
	if old != nil {
		for typ, names := range old.Subscribe {
			for _, n := range names {
				if s.Subscribed[typ][n]--; s.Subscribed[typ][n] == 0 {
					delete(s.Subscribed[typ], n)
					s.turned[typ][n]--
				}
			}
		}
	}
	if now == nil && t == Listener {
		for route := range s.refs[Route] {
			if _, ok := s.Subscribed[Route][route]; !ok {
				delete(s.refs[Route], route)
			}
		}
	}
}

var short = map[string]string{
	Cluster:  "cluster",
	Endpoint: "endpoint",
	Listener: "listener",
	Route:    "route",
	Secret:   "secret",
}

// logLength bounds State.Log; the oldest go first.
const logLength = 256

func (s *State) note(r Response, v Verdict) {
	b := bytes.NewBufferString(short[r.Type])
	names := make([]string, len(r.Resources))
	for i, res := range r.Resources {
		names[i] = res.Name
	}
	slices.Sort(names) // the server's order within a response says nothing
	for _, name := range names {
		b.WriteString("+" + name)
	}
	for _, name := range slices.Sorted(slices.Values(r.Removed)) {
		b.WriteString("-" + name)
	}
	if v.Reject != "" {
		b.WriteString("!")
	}
	if s.Log = append(s.Log, b.String()); len(s.Log) > logLength {
		s.Log = slices.Delete(s.Log, 0, logLength/2)
	}
}
