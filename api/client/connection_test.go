package client_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
)

// TestWrongPorts: what is reached instead of the API is named, and which port is the API's.
func TestWrongPorts(t *testing.T) {
	t.Parallel()
	nothing := listen(t)
	_ = nothing.Close()

	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.TLS = &tls.Config{NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	t.Cleanup(secure.Close)

	other := listen(t)
	server := grpc.NewServer()
	go func() { _ = server.Serve(other) }()
	t.Cleanup(server.Stop)

	for name, c := range map[string]struct {
		url, says string
		code      codes.Code
	}{
		"nothing": {
			url:  "http://" + nothing.Addr().String(),
			says: "Could not reach the control plane at " + nothing.Addr().String() + ": connection refused",
			code: codes.Unavailable,
		},
		"TLS without TLS": {
			url:  strings.Replace(secure.URL, "https:", "http:", 1),
			says: "as a port with TLS does; try https://",
			code: codes.Unavailable,
		},
		"cleartext with TLS": {
			url:  strings.Replace(web.URL, "http:", "https:", 1),
			says: "it answers without TLS; use http://",
			code: codes.Unavailable,
		},
		"HTTP/1": {
			url:  web.URL,
			says: "it answers with HTTP/1",
			code: codes.Unavailable,
		},
		"another service": {
			url:  "http://" + other.Addr().String(),
			says: "is not the API of a control plane",
			code: codes.Unimplemented,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl, err := client.New(client.Options{URL: c.url, SkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cl.Close() }()
			_, err = cl.List(t.Context(), client.ListOptions{Kind: mesh.KindMesh})
			if err == nil {
				t.Fatal("it was taken for an API")
			}
			for _, part := range []string{c.says, "5681 (http) and 5682 (https)"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if e, ok := err.(*client.Error); !ok || e.Code != c.code {
				t.Errorf("error %#v, want code %s", err, c.code)
			}
		})
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
