// Package standin has sidecars without an Envoy, for measurements: each follows its configuration over
// incremental ADS as Envoy does and moves no traffic. Many cost little, because what they get is kept
// once for all of them.
//
// No example: a Sidecar needs a running zone.
package standin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/internal/wire"
	"github.com/meridian-mesh/meridian/xds/references"
)

// types that a stand-in follows; the first two it asks for as a whole, the others by the names that
// those refer to.
var types = []string{references.Cluster, references.Listener, references.Endpoint, references.Route}

// wildcards is how many of types are asked for as a whole.
const wildcards = 2

// content is one version of one resource, shared by all stand-ins: what is measured is the control
// plane, so that they should cost as little as they can and still follow the protocol.
type content struct {
	name, version string
	// needs are the names to ask for, by index in types.
	needs [][]string
}

// Contents are what sidecars that share them have ever got, by type and version.
type Contents struct {
	seed       maphash.Seed
	mu         sync.RWMutex
	known      []map[string]*content   // guarded by mu
	batches    map[batchKey][]*content // guarded by mu
	references references.Index
}

// batchKey stands for the encoded resources of a response, which many stand-ins get: they are read
// once for all.
type batchKey struct {
	typ, size int
	hash      uint64
}

// maxBatches bounds what is remembered.
const maxBatches = 1024

// batch is what the resources of a response say.
func (c *Contents) batch(typ int, b []byte) ([]*content, error) {
	key := batchKey{typ, len(b), maphash.Bytes(c.seed, b)}
	c.mu.RLock()
	list, ok := c.batches[key]
	c.mu.RUnlock()
	if ok {
		return list, nil
	}
	err := wire.Each(b, func(_ protowire.Number, v []byte) error {
		one, err := c.resource(typ, v)
		list = append(list, one)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.batches) >= maxBatches {
		clear(c.batches)
	}
	c.batches[key] = list
	return list, nil
}

// resource reads one resource of a response.
func (c *Contents) resource(typ int, b []byte) (*content, error) {
	var version, name, body []byte
	err := wire.Each(b, func(num protowire.Number, v []byte) error {
		switch num {
		case 1:
			version = v
		case 2:
			return wire.Each(v, func(num protowire.Number, v []byte) error {
				if num == 2 {
					body = v
				}
				return nil
			})
		case 3:
			name = v
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.of(typ, version, name, body)
}

// NewContents makes Contents without any.
func NewContents() *Contents {
	c := &Contents{seed: maphash.MakeSeed(), batches: map[batchKey][]*content{}}
	for range types {
		c.known = append(c.known, map[string]*content{})
	}
	return c
}

func (c *Contents) of(typ int, version, name, body []byte) (*content, error) {
	c.mu.RLock()
	found := c.known[typ][string(version)]
	c.mu.RUnlock()
	if found != nil {
		return found, nil
	}
	names, err := c.references.Of(types[typ], string(name), string(version), body)
	if err != nil {
		return nil, fmt.Errorf("resource %s: %w", name, err)
	}
	found = &content{name: string(name), version: string(version)}
	for _, t := range types {
		found.needs = append(found.needs, names.Subscribe[t])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[typ][found.version] = found
	return found, nil
}

// Config of a Sidecar; Address, TLS and NodeID are required.
type Config struct {
	// Address of the zone's xDS port, host:port.
	Address string
	TLS     *tls.Config
	NodeID  string
	// Metadata of the node; may be nil.
	Metadata map[string]string
	// Token for the header "authorization"; empty sends none.
	Token string
	// Contents to share; nil makes own ones.
	Contents *Contents
}

// Sidecar holds the names and versions of what it got, and tells the server what it wants, as Envoy
// does. One goroutine at a time runs it.
type Sidecar struct {
	config   Config
	contents *Contents
	node     []byte
	held     []map[string]*content
	wanted   []map[string]int
	scratch  []byte

	// What others read.
	bytes      atomic.Int64
	configured chan struct{}
	once       sync.Once
}

// New makes a Sidecar; its Run connects it.
func New(c Config) (*Sidecar, error) {
	if c.Contents == nil {
		c.Contents = NewContents()
	}
	s := &Sidecar{config: c, contents: c.Contents, configured: make(chan struct{})}
	node := &corev3.Node{Id: c.NodeID, UserAgentName: "meridian-bench"}
	if len(c.Metadata) > 0 {
		node.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for k, v := range c.Metadata {
			node.Metadata.Fields[k] = structpb.NewStringValue(v)
		}
	}
	var err error
	s.node, err = proto.Marshal(node)
	for range types {
		s.held, s.wanted = append(s.held, map[string]*content{}), append(s.wanted, map[string]int{})
	}
	return s, err
}

// Bytes are those that came in.
func (s *Sidecar) Bytes() int64 { return s.bytes.Load() }

// Configured is closed when the sidecar has a listener for the first time.
func (s *Sidecar) Configured() <-chan struct{} { return s.configured }

// Run keeps one stream until it ends, and says why: [io.EOF] if the server ended it. Called again, it
// reconnects with the versions that it holds.
func (s *Sidecar) Run(ctx context.Context) error {
	if s.config.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", s.config.Token)
	}
	conn, err := Dial(s.config.Address, s.config.TLS)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources")
	if err != nil {
		return err
	}
	for t := range types {
		if t >= wildcards && len(s.wanted[t]) == 0 {
			continue
		}
		if err := Send(stream, s.hello(t)); err != nil {
			return err
		}
	}
	for {
		f := Frame{Buf: s.scratch}
		if err := stream.RecvMsg(&f); err != nil {
			return err
		}
		s.scratch = f.Buf
		s.bytes.Add(int64(len(f.Buf)))
		out, err := s.take(f.Buf)
		if err != nil {
			return err
		}
		for _, b := range out {
			if err := Send(stream, b); err != nil {
				return err
			}
		}
	}
}

// window is Envoy's default of its HTTP/2 windows. That it is given also stops gRPC's client from
// measuring the bandwidth with a ping for each message, which Envoy does not do.
const window = 16 << 20

// Dial connects with the windows and the codec of a Sidecar.
func Dial(address string, t *tls.Config) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(t)),
		grpc.WithNoProxy(),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(Codec()), grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithReadBufferSize(16<<10), grpc.WithWriteBufferSize(4<<10))
}

func Send(stream grpc.ClientStream, b []byte) error {
	err := stream.SendMsg(&b)
	if errors.Is(err, io.EOF) { // the reason comes with the next receive
		var f Frame
		return stream.RecvMsg(&f)
	}
	return err
}

// Fields of DeltaDiscoveryRequest.
const (
	reqNode, reqType, reqSubscribe, reqUnsubscribe, reqVersions, reqNonce = 1, 2, 3, 4, 5, 6
)

// Fields of DeltaDiscoveryResponse.
const (
	respResources, respType, respNonce, respRemoved = 2, 4, 5, 6
)

// leading divides a message after the fields of one number that it begins with.
func leading(b []byte, num protowire.Number) (first, rest []byte) {
	at := 0
	for at < len(b) {
		n, typ, tag := protowire.ConsumeTag(b[at:])
		if n != num || tag < 0 {
			break
		}
		size := protowire.ConsumeFieldValue(n, typ, b[at+tag:])
		if size < 0 {
			break
		}
		at += tag + size
	}
	return b[:at], b[at:]
}

func appendField(b []byte, num protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// hello is the first request for a type: what it wants, and what it holds from before.
func (s *Sidecar) hello(t int) []byte {
	b := protowire.AppendBytes(protowire.AppendTag(nil, reqNode, protowire.BytesType), s.node)
	b = appendField(b, reqType, types[t])
	for name := range s.wanted[t] {
		b = appendField(b, reqSubscribe, name)
	}
	for name, c := range s.held[t] {
		b = protowire.AppendBytes(protowire.AppendTag(b, reqVersions, protowire.BytesType),
			appendField(appendField(nil, 1, name), 2, c.version))
	}
	return b
}

// take applies a response and returns the requests that follow from it: new interest first, then the answer.
func (s *Sidecar) take(b []byte) ([][]byte, error) {
	typ, nonce := -1, ""
	var resources, rest []byte
	// The resources come first on the wire.
	if resources, rest = leading(b, respResources); len(rest) == 0 {
		return nil, errors.New("a response without a type")
	}
	err := wire.Each(rest, func(num protowire.Number, v []byte) error {
		switch num {
		case respResources:
			return errors.New("a resource comes after other fields")
		case respType:
			typ = slices.IndexFunc(types, func(t string) bool { return t == string(v) })
		case respNonce:
			nonce = string(v)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if typ < 0 {
		return nil, errors.New("a response of a type that was not asked for")
	}
	var subscribe, unsubscribe [][]string
	turn := func(list *[][]string, t int, name string) {
		if *list == nil {
			*list = make([][]string, len(types))
		}
		(*list)[t] = append((*list)[t], name)
	}
	replace := func(old, now *content) {
		if old != nil && now != nil && slices.EqualFunc(old.needs, now.needs, slices.Equal) {
			return
		}
		if now != nil {
			for t, names := range now.needs {
				for _, name := range names {
					if s.wanted[t][name]++; s.wanted[t][name] == 1 {
						turn(&subscribe, t, name)
					}
				}
			}
		}
		if old != nil {
			for t, names := range old.needs {
				for _, name := range names {
					if s.wanted[t][name]--; s.wanted[t][name] == 0 {
						delete(s.wanted[t], name)
						delete(s.held[t], name)
						turn(&unsubscribe, t, name)
					}
				}
			}
		}
	}
	list, err := s.contents.batch(typ, resources)
	if err != nil {
		return nil, err
	}
	for _, now := range list {
		old := s.held[typ][now.name]
		s.held[typ][now.name] = now
		if types[typ] == references.Listener {
			s.once.Do(func() { close(s.configured) })
		}
		replace(old, now)
	}
	err = wire.Each(rest, func(num protowire.Number, v []byte) error {
		if num == respRemoved {
			old := s.held[typ][string(v)]
			delete(s.held[typ], string(v))
			replace(old, nil)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for t := range types {
		var req []byte
		if subscribe != nil {
			for _, name := range subscribe[t] {
				req = appendField(req, reqSubscribe, name)
			}
		}
		if unsubscribe != nil {
			for _, name := range unsubscribe[t] {
				if s.wanted[t][name] == 0 {
					req = appendField(req, reqUnsubscribe, name)
				}
			}
		}
		if req != nil {
			out = append(out, appendField(req, reqType, types[t]))
		}
	}
	return append(out, appendField(appendField(nil, reqType, types[typ]), reqNonce, nonce)), nil
}

// Frame receives a message into a buffer that is used again.
type Frame struct{ Buf []byte }

// rawCodec carries bytes as they are.
type rawCodec struct{ encoding.CodecV2 }

// Codec carries encoded messages as they are: a *[]byte out, a *[Frame] in.
func Codec() encoding.CodecV2 { return rawCodec{encoding.GetCodecV2(grpcproto.Name)} }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(*[]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*Frame); ok {
		f.Buf = slices.Grow(f.Buf[:0], data.Len())[:data.Len()]
		data.CopyTo(f.Buf)
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
