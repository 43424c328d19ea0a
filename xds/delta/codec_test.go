package delta

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// TestIncoming: a request that says nothing but a type and a nonce becomes no message, any other does,
// and the first always.
func TestIncoming(t *testing.T) {
	t.Parallel()
	url := TypeRoute.URL()
	for name, c := range map[string]struct {
		req   *discoveryv3.DeltaDiscoveryRequest
		plain bool
	}{
		"answer": {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResponseNonce: "n"}, true},
		"answer of who says its name again": {&discoveryv3.DeltaDiscoveryRequest{
			Node:          &corev3.Node{Id: "default.web"},
			TypeUrl:       url,
			ResponseNonce: "n",
		}, true},
		"no nonce": {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url}, false},
		"no type":  {&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: "n"}, false},
		"a type of others": {&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl:       url + "x",
			ResponseNonce: "n",
		}, false},
		"rejection": {&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl:       url,
			ResponseNonce: "n",
			ErrorDetail:   &rpcstatus.Status{},
		}, false},
		"subscription": {&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl:                url,
			ResponseNonce:          "n",
			ResourceNamesSubscribe: []string{"a"},
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := proto.Marshal(c.req)
			if err != nil {
				t.Fatal(err)
			}
			half := len(b) / 2
			data := mem.BufferSlice{mem.SliceBuffer(b[:half]), mem.SliceBuffer(b[half:])}

			var in incoming
			if err := newCodec().Unmarshal(data, &in); err != nil {
				t.Fatal(err)
			}
			switch {
			case (in.req == nil) != c.plain:
				t.Errorf("got the message %v", in.req)
			case c.plain && (in.typ != TypeRoute || string(in.nonce) != "n"):
				t.Errorf("got type %v and nonce %q", in.typ, in.nonce)
			case !c.plain && !proto.Equal(in.req, c.req):
				t.Errorf("got %v, want %v", in.req, c.req)
			}

			in.full = true
			if err := newCodec().Unmarshal(data, &in); err != nil || !proto.Equal(in.req, c.req) {
				t.Errorf("as the first request: %v, %v; want %v", in.req, err, c.req)
			}
		})
	}
}

// FuzzIncoming: what is read without a message is what the message would say.
func FuzzIncoming(f *testing.F) {
	for _, req := range []*discoveryv3.DeltaDiscoveryRequest{
		{TypeUrl: TypeCluster.URL(), ResponseNonce: "1.abc"},
		{TypeUrl: TypeSecret.URL(), ResponseNonce: "2", ResourceNamesSubscribe: []string{"a"}},
	} {
		b, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in incoming
		if !in.scan(b) {
			return
		}
		var req discoveryv3.DeltaDiscoveryRequest
		if proto.Unmarshal(b, &req) != nil {
			return // its text or node is malformed: no open response has such a nonce
		}
		if req.GetTypeUrl() != in.typ.URL() || req.GetResponseNonce() != string(in.nonce) {
			t.Errorf("type %v and nonce %q, want %v", in.typ, in.nonce, &req)
		}
		req.Node, req.TypeUrl, req.ResponseNonce = nil, "", ""
		if rest := proto.Size(&req); rest > 0 {
			t.Errorf("%d bytes of the request are not heard: %v", rest, &req)
		}
	})
}
