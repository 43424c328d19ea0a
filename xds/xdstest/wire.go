package xdstest

import (
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meridian-mesh/meridian/internal/wire"
)

// Response is one response as the client got it.
type Response struct {
	Type, Nonce string
	Resources   []Resource
	Removed     []string
	// Bytes is the length of the message.
	Bytes int
}

// Resource is one resource of a response.
type Resource struct {
	Name, Version string
	Body          []byte
}

// rawCodec leaves received messages encoded: a stand-in should cost less than what it stands for.
type rawCodec struct{ encoding.CodecV2 }

func newRawCodec() encoding.CodecV2 { return rawCodec{encoding.GetCodecV2(grpcproto.Name)} }

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*[]byte); ok {
		*raw = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// decode reads a DeltaDiscoveryResponse.
func decode(b []byte) (Response, error) {
	r := Response{Bytes: len(b)}
	err := wire.Each(b, func(num protowire.Number, v []byte) error {
		switch num {
		case 2:
			var res Resource
			err := wire.Each(v, func(num protowire.Number, v []byte) error {
				switch num {
				case 1:
					res.Version = string(v)
				case 2:
					return wire.Each(v, func(num protowire.Number, v []byte) error {
						if num == 2 {
							res.Body = v
						}
						return nil
					})
				case 3:
					res.Name = string(v)
				}
				return nil
			})
			r.Resources = append(r.Resources, res)
			return err
		case 4:
			r.Type = string(v)
		case 5:
			r.Nonce = string(v)
		case 6:
			r.Removed = append(r.Removed, string(v))
		}
		return nil
	})
	return r, err
}
