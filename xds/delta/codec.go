package delta

import (
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// codec writes a *response from bytes that are already encoded, reads an *incoming, and leaves every
// other message to the proto codec.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2(grpcproto.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*response); ok {
		return r.encode(), nil
	}
	return c.CodecV2.Marshal(v)
}

// incoming is a request as it comes. Nearly all say nothing but a type and a nonce: of these no
// message is made, for that costs more than to take the answer.
type incoming struct {
	// full asks for a message in any case.
	full bool
	// req is the message; nil if there is only an answer: of the type, with the nonce, which is
	// overwritten by the next request.
	req   *discoveryv3.DeltaDiscoveryRequest
	typ   Type
	nonce []byte
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	in.req = nil
	if !in.full && in.scan(b.ReadOnlyData()) {
		return nil
	}
	in.req = &discoveryv3.DeltaDiscoveryRequest{}
	return proto.Unmarshal(b.ReadOnlyData(), in.req)
}

// scan reads a request that says nothing but a type and a nonce, and perhaps once more who the client
// is; false if it says anything else, or is malformed.
func (in *incoming) scan(b []byte) bool {
	known := false
	in.nonce = in.nonce[:0]
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			return false
		}
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return false
		}
		b = b[n+m:]
		switch num {
		case requestNode:
		case requestTypeURL:
			if in.typ, known = TypeOf(v); !known {
				return false
			}
		case requestNonce:
			in.nonce = append(in.nonce[:0], v...)
		default:
			return false
		}
	}
	return known && len(in.nonce) > 0
}

// encode is the DeltaDiscoveryResponse. Its resources are the shared bytes themselves, not copies.
func (r *response) encode() mem.BufferSlice {
	if r.sotw != nil {
		return r.encodeSotW()
	}
	if r.content != nil {
		nonce := make([]byte, 0, protowire.SizeTag(responseNonce)+protowire.SizeBytes(len(r.nonce)))
		nonce = protowire.AppendTag(nonce, responseNonce, protowire.BytesType)
		nonce = protowire.AppendString(nonce, r.nonce)
		return mem.BufferSlice{r.content.buffer, mem.SliceBuffer(nonce)}
	}
	out := make(mem.BufferSlice, 0, len(r.resources)+1)
	for _, res := range r.resources {
		out = append(out, res.encoded().buffer)
	}
	b := protowire.AppendTag(nil, responseTypeURL, protowire.BytesType)
	b = protowire.AppendString(b, r.typ.URL())
	b = protowire.AppendTag(b, responseNonce, protowire.BytesType)
	b = protowire.AppendString(b, r.nonce)
	for _, name := range r.removed {
		b = protowire.AppendTag(b, responseRemoved, protowire.BytesType)
		b = protowire.AppendString(b, name)
	}
	return append(out, mem.SliceBuffer(b))
}

// size is the length of the encoded response, in bytes, up to the few of its envelope.
func (r *response) size() int {
	if r.bytes == 0 {
		r.bytes = r.measure()
	}
	return r.bytes
}

func (r *response) measure() int {
	n := 0
	if r.sotw != nil {
		for _, res := range r.sotw.resources {
			n += len(res.anyBytes())
		}
		return n
	}
	for _, res := range r.resources {
		n += len(res.bytes())
	}
	for _, name := range r.removed {
		n += protowire.SizeTag(responseRemoved) + protowire.SizeBytes(len(name))
	}
	return n
}
