package delta

import (
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// codec writes a *response from bytes that are already encoded, and leaves every other message to
// the proto codec.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2(grpcproto.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*response); ok {
		return r.encode(), nil
	}
	return c.CodecV2.Marshal(v)
}

// encode is the DeltaDiscoveryResponse. Its resources are the shared bytes themselves, not copies.
func (r *response) encode() mem.BufferSlice {
	if r.sotw != nil {
		return r.encodeSotW()
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
