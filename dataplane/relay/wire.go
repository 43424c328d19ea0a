package relay

import (
	"slices"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meridian-mesh/meridian/internal/wire"
)

// message is one of ADS as it stands on the wire.
type message struct{ data []byte }

// codec leaves messages as they are. Its name is that of the encoding, which both ends expect.
type codec struct{}

var _ encoding.CodecV2 = codec{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*message).data)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*message).data = data.Materialize()
	return nil
}

// Fields of DeltaDiscoveryRequest, DeltaDiscoveryResponse and Resource.
const (
	requestTypeURL     protowire.Number = 2
	requestSubscribe   protowire.Number = 3
	requestUnsubscribe protowire.Number = 4
	requestInitial     protowire.Number = 5
	requestNonce       protowire.Number = 6
	requestError       protowire.Number = 7

	responseResource protowire.Number = 2
	responseTypeURL  protowire.Number = 4
	responseNonce    protowire.Number = 5
	responseRemoved  protowire.Number = 6

	resourceVersion protowire.Number = 1
	resourceName    protowire.Number = 3
)

// request is what the relay reads of a request.
type request struct {
	url, nonce             string
	subscribe, unsubscribe []string
	// initial are the versions of what Envoy holds, by name; only the first request of a type has them.
	initial map[string]string
	// rejected says that it is a NACK.
	rejected bool
}

func parseRequest(b []byte) (request, error) {
	var r request
	err := wire.Each(b, func(num protowire.Number, v []byte) error {
		switch num {
		case requestTypeURL:
			r.url = string(v)
		case requestSubscribe:
			r.subscribe = append(r.subscribe, string(v))
		case requestUnsubscribe:
			r.unsubscribe = append(r.unsubscribe, string(v))
		case requestNonce:
			r.nonce = string(v)
		case requestError:
			r.rejected = true
		case requestInitial:
			name, version, err := parseVersion(v)
			if err != nil {
				return err
			}
			if r.initial == nil {
				r.initial = map[string]string{}
			}
			r.initial[name] = version
		}
		return nil
	})
	return r, err
}

// parseVersion reads an entry of initial_resource_versions.
func parseVersion(b []byte) (name, version string, err error) {
	err = wire.Each(b, func(num protowire.Number, v []byte) error {
		switch num {
		case 1:
			name = string(v)
		case 2:
			version = string(v)
		}
		return nil
	})
	return name, version, err
}

// withoutVersions gives a well-formed request in which some resources are held in no version.
func withoutVersions(b []byte, names map[string]bool) []byte {
	out := make([]byte, 0, len(b))
	_ = wire.Each(b, func(num protowire.Number, v []byte) error {
		if num == requestInitial {
			if name, _, err := parseVersion(v); err == nil && names[name] {
				v = appendField(nil, 1, []byte(name))
			}
		}
		out = appendField(out, num, v)
		return nil
	})
	return out
}

// wildcard says that a type's first request asks for everything of it.
func (r request) wildcard() bool {
	return len(r.subscribe) == 0 || slices.Contains(r.subscribe, "*")
}

// resource is one of a response, encoded with its name and version.
type resource struct {
	name, version string
	body          []byte
}

func parseResource(b []byte) (resource, error) {
	r := resource{body: b}
	err := wire.Each(b, func(num protowire.Number, v []byte) error {
		switch num {
		case resourceName:
			r.name = string(v)
		case resourceVersion:
			r.version = string(v)
		}
		return nil
	})
	return r, err
}

// response is what the relay reads of a response.
type response struct {
	url, nonce string
	resources  []resource
	removed    []string
}

// nonceOf reads a response's nonce and nothing else; empty if there is none.
func nonceOf(b []byte) (string, error) {
	nonce := ""
	err := wire.Each(b, func(num protowire.Number, v []byte) error {
		if num == responseNonce {
			nonce = string(v)
		}
		return nil
	})
	return nonce, err
}

func parseResponse(b []byte) (response, error) {
	var r response
	err := wire.Each(b, func(num protowire.Number, v []byte) error {
		switch num {
		case responseTypeURL:
			r.url = string(v)
		case responseNonce:
			r.nonce = string(v)
		case responseRemoved:
			r.removed = append(r.removed, string(v))
		case responseResource:
			res, err := parseResource(v)
			if err != nil {
				return err
			}
			r.resources = append(r.resources, res)
		}
		return nil
	})
	return r, err
}

func appendField(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// encode is the DeltaDiscoveryResponse.
func (r response) encode() []byte {
	size := len(r.url) + len(r.nonce) + 16
	for _, res := range r.resources {
		size += len(res.body) + 6
	}
	b := make([]byte, 0, size)
	for _, res := range r.resources {
		b = appendField(b, responseResource, res.body)
	}
	b = appendField(b, responseTypeURL, []byte(r.url))
	b = appendField(b, responseNonce, []byte(r.nonce))
	for _, name := range r.removed {
		b = appendField(b, responseRemoved, []byte(name))
	}
	return b
}
