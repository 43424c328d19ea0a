package grpcclients

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/identity/servercert"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

const strict = `
type: Mesh
name: kongair
mtls:
  enabledBackend: ca
  backends: [{name: ca, type: builtin, mode: STRICT}]
`

// certificates asks the zone for a dataplane's certificate and the roots of its mesh, by
// state-of-the-world ADS, and writes them where a file_watcher reads them. text is the Dataplane,
// empty if the zone has it.
func (w *world) certificates(name, text string) string {
	w.t.Helper()
	config, err := servercert.ClientTLS(servercert.ClientOptions{Pins: []string{w.server.Pin}})
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		w.t.Fatal(err)
	}
	// The stream stays: it is what says that the instance is there.
	ctx, cancel := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	w.t.Cleanup(func() {
		cancel()
		_ = conn.Close()
		reading.Wait()
	})
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	fields := map[string]any{"dataplane.client": "grpc", "dataplane.token": w.token(name)}
	if text != "" {
		fields["dataplane.resource"] = text
	}
	meta, err := structpb.NewStruct(fields)
	if err != nil {
		w.t.Fatal(err)
	}
	identity, ca := "system_mtls_identity_"+meshName, "system_mtls_ca_"+meshName
	req := &discoveryv3.DiscoveryRequest{
		Node:          &corev3.Node{Id: meshName + "." + name, Metadata: meta},
		TypeUrl:       "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
		ResourceNames: []string{identity, ca},
	}
	dir := w.t.TempDir()
	files := map[string][]byte{}
	send := func() {
		w.t.Helper()
		if err := s.Send(req); err != nil {
			w.t.Fatal(err)
		}
	}
	for len(files) < 3 {
		send()
		m, err := s.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, any := range m.GetResources() {
			var secret tlsv3.Secret
			if err := any.UnmarshalTo(&secret); err != nil {
				w.t.Fatal(err)
			}
			switch secret.GetName() {
			case identity:
				files["cert.pem"] = secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes()
				files["key.pem"] = secret.GetTlsCertificate().GetPrivateKey().GetInlineBytes()
			case ca:
				files["ca.pem"] = secret.GetValidationContext().GetTrustedCa().GetInlineBytes()
			}
		}
		req.Node, req.ResponseNonce, req.VersionInfo = nil, m.GetNonce(), m.GetVersionInfo()
	}
	send() // the instance has what it needs; what is renewed is answered too
	reading.Go(func() {
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			req.ResponseNonce, req.VersionInfo = m.GetNonce(), m.GetVersionInfo()
			if s.Send(req) != nil {
				return
			}
		}
	})
	for file, data := range files {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// serverTLS demands a certificate of the mesh.
func serverTLS(t *testing.T, dir string) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    roots,
	}
}

// TestMutualTLS: in a mesh that demands mTLS, a client with a certificate calls, and one without
// fails with the reason.
func TestMutualTLS(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			w := newWorld(t)
			s := &scenario{world: w, library: lib}
			s.write(strict)
			port := serve(t, "picks a port", "127.0.0.1", 0, nil)
			port.stop()
			one := &backend{name: "one", address: "127.0.0.1", port: port.port}
			s.write(one.dataplane("v1") + service("flight-search", one.port, "kuma.io/service: flights"))
			serve(t, "one", one.address, one.port, serverTLS(t, s.certificates("one", "")))

			certificates := s.certificates("web-1",
				fmt.Sprintf(`{"type":"Dataplane","mesh":%q,"name":"web-1","networking":{"address":"127.0.0.9",
				"inbound":[{"port":9,"tags":{"kuma.io/service":"web"}}]}}`, meshName))
			s.client = s.start(t, s.bootstrap("web-1", s.address(), s.inClear, certificates))
			call := command{Target: "xds:///flight-search", Calls: 5}
			s.eventually("a certificate of the mesh on both sides", call, only("one"))

			uncertified := &scenario{world: w, library: lib}
			uncertified.client = s.start(t, s.bootstrap("web-2", s.address(), s.inClear, ""))
			uncertified.eventually("no certificate", call, failing("UNAVAILABLE"))
			rejections := w.zone.Engine().Progress().Rejections
			if len(rejections) != 1 || rejections[0].GetProxy().GetName() != "web-2" ||
				rejections[0].GetStage() != meshv1.Rejection_STAGE_TRANSLATION ||
				!strings.Contains(rejections[0].Reason, "dataplane.certificateProvider") {
				t.Errorf("rejections %+v", rejections)
			}
			// It does not block others: other changes are complete without it.
			w.apply(service("another", one.port, "kuma.io/service: flights"))
			if n := s.refusals(); n > 0 {
				t.Errorf("a client refused %v responses", n)
			}
		})
	}
}
