package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

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

// contents are those ever seen, by type and version.
type contents struct {
	mu         sync.RWMutex
	known      []map[string]*content // guarded by mu
	references references.Index
}

func newContents() *contents {
	c := &contents{}
	for range types {
		c.known = append(c.known, map[string]*content{})
	}
	return c
}

func (c *contents) of(typ int, version, name, body []byte) (*content, error) {
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

// standin is one sidecar: it holds the names and versions of what it got, and tells the server what
// it wants, as Envoy does.
type standin struct {
	contents *contents
	node     []byte
	held     []map[string]*content
	wanted   []map[string]int
	// bytes that came in; the only field that others read.
	bytes   atomic.Int64
	scratch []byte
}

func newStandin(c *contents, id string) (*standin, error) {
	s := &standin{contents: c}
	var err error
	s.node, err = proto.Marshal(&corev3.Node{Id: id, UserAgentName: "meridian-bench"})
	for range types {
		s.held, s.wanted = append(s.held, map[string]*content{}), append(s.wanted, map[string]int{})
	}
	return s, err
}

// run keeps one stream until it ends; nil if the server or ctx ended it.
func (s *standin) run(ctx context.Context, address string, t *tls.Config) error {
	conn, err := dial(address, t)
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
		if err := send(stream, s.hello(t)); err != nil {
			return err
		}
	}
	for {
		f := frame{buf: s.scratch}
		if err := stream.RecvMsg(&f); err != nil {
			return err
		}
		s.scratch = f.buf
		s.bytes.Add(int64(len(f.buf)))
		out, err := s.take(f.buf)
		if err != nil {
			return err
		}
		for _, b := range out {
			if err := send(stream, b); err != nil {
				return err
			}
		}
	}
}

// window is Envoy's default of its HTTP/2 windows. That it is given also stops gRPC's client from
// measuring the bandwidth with a ping for each message, which Envoy does not do.
const window = 16 << 20

func dial(address string, t *tls.Config) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(t)),
		grpc.WithNoProxy(),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newRawCodec()), grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithReadBufferSize(16<<10), grpc.WithWriteBufferSize(4<<10))
}

func send(stream grpc.ClientStream, b []byte) error {
	err := stream.SendMsg(&b)
	if errors.Is(err, io.EOF) { // the reason comes with the next receive
		var f frame
		return stream.RecvMsg(&f)
	}
	return err
}

// Fields of DeltaDiscoveryRequest.
const (
	reqNode, reqType, reqSubscribe, reqUnsubscribe, reqVersions, reqNonce = 1, 2, 3, 4, 5, 6
)

func appendField(b []byte, num protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// hello is the first request for a type: what it wants, and what it holds from before.
func (s *standin) hello(t int) []byte {
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
func (s *standin) take(b []byte) ([][]byte, error) {
	typ, nonce := -1, ""
	// The type comes after the resources on the wire.
	err := each(b, func(num protowire.Number, v []byte) error {
		switch num {
		case 4:
			typ = slices.IndexFunc(types, func(t string) bool { return t == string(v) })
		case 5:
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
	err = each(b, func(num protowire.Number, v []byte) error {
		switch num {
		case 2:
			var version, name, body []byte
			if err := each(v, func(num protowire.Number, v []byte) error {
				switch num {
				case 1:
					version = v
				case 2:
					return each(v, func(num protowire.Number, v []byte) error {
						if num == 2 {
							body = v
						}
						return nil
					})
				case 3:
					name = v
				}
				return nil
			}); err != nil {
				return err
			}
			now, err := s.contents.of(typ, version, name, body)
			if err != nil {
				return err
			}
			old := s.held[typ][now.name]
			s.held[typ][now.name] = now
			replace(old, now)
		case 6:
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

// each calls f for each length-delimited field of a message.
func each(b []byte, f func(num protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// frame receives a message into a buffer that is used again.
type frame struct{ buf []byte }

// rawCodec carries bytes as they are.
type rawCodec struct{ encoding.CodecV2 }

func newRawCodec() encoding.CodecV2 { return rawCodec{encoding.GetCodecV2(grpcproto.Name)} }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(*[]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.buf = slices.Grow(f.buf[:0], data.Len())[:data.Len()]
		data.CopyTo(f.buf)
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
