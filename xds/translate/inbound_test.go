package translate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// authority signs certificates of a mesh.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{
		t:   t,
		key: newKey(t),
		cert: &x509.Certificate{
			SerialNumber:          big.NewInt(1),
			Subject:               pkix.Name{CommonName: "mesh"},
			IsCA:                  true,
			BasicConstraintsValid: true,
			KeyUsage:              x509.KeyUsageCertSign,
			NotBefore:             time.Now().Add(-time.Hour),
			NotAfter:              time.Now().Add(time.Hour),
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue gives a certificate and its key, PEM.
func (a *authority) issue(uris ...string) (chain, key []byte) {
	a.t.Helper()
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			a.t.Fatal(err)
		}
		leaf.URIs = append(leaf.URIs, parsed)
	}
	k := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{
			Type:  "CERTIFICATE",
			Bytes: der,
		}), pem.EncodeToMemory(&pem.Block{
			Type:  "PRIVATE KEY",
			Bytes: raw,
		})
}

// caller dials with a certificate and a server name.
func (a *authority) caller(sni string, uris ...string) *http.Client {
	a.t.Helper()
	cert, err := tls.X509KeyPair(a.issue(uris...))
	if err != nil {
		a.t.Fatal(err)
	}
	c := &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert},
			InsecureSkipVerify: true, ServerName: sni}},
	}
	a.t.Cleanup(c.CloseIdleConnections)
	return c
}

// inbounds is an Envoy with inbound listeners of one workload.
type inbounds struct {
	*authority
	static *bootstrapv3.Bootstrap_StaticResources
}

func newInbounds(t *testing.T) *inbounds {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "ok")
	}))
	t.Cleanup(app.Close)
	addr := app.Listener.Addr().(*net.TCPAddr)
	c, err := Cluster(ir.Cluster{
		Name:          "app",
		Type:          ir.ClusterStatic,
		Upstream:      ir.HTTP1,
		Port:          ir.HTTP1,
		Local:         ir.Endpoint{Address: "127.0.0.1", Port: uint32(addr.Port), Weight: 1},
		ClusterPolicy: ir.ClusterPolicy{Timeouts: ir.ClusterTimeouts{Connect: 5 * time.Second}},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := &inbounds{authority: newAuthority(t), static: &bootstrapv3.Bootstrap_StaticResources{}}
	in.static.Clusters = append(in.static.Clusters, c)
	chain, key := in.issue("spiffe://default/app")
	in.static.Secrets = append(in.static.Secrets, Secret(ir.Secret{
		Name:  ir.IdentitySecret("default"),
		Chain: chain,
		Key:   key,
	}),
		Secret(ir.Secret{Name: ir.CASecret("default"), Trust: in.pem}))
	return in
}

// add is a listener with chains for the mesh's mTLS, of which secrets are static instead of asked
// for; it gives its address.
func (in *inbounds) add(name string, chains ...ir.Chain) string {
	t := in.t
	t.Helper()
	port := freePort(t)
	l, err := Listener(ir.Listener{
		Name:         name,
		Address:      "127.0.0.1",
		Port:         uint32(port),
		Inbound:      true,
		TLSInspector: true,
		Chains:       chains,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range l.FilterChains {
		ctx := &tlsv3.DownstreamTlsContext{}
		if c.TransportSocket == nil {
			continue
		}
		if err := c.TransportSocket.GetTypedConfig().UnmarshalTo(ctx); err != nil {
			t.Fatal(err)
		}
		for _, s := range ctx.CommonTlsContext.TlsCertificateSdsSecretConfigs {
			s.SdsConfig = nil
		}
		ctx.CommonTlsContext.GetCombinedValidationContext().ValidationContextSdsSecretConfig.SdsConfig = nil
		a, err := pack(ctx)
		if err != nil {
			t.Fatal(err)
		}
		c.TransportSocket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: a}
	}
	in.static.Listeners = append(in.static.Listeners, l)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func (in *inbounds) start(ctx context.Context, envoy string) {
	in.t.Helper()
	runEnvoy(in.t, envoy, in.static)
	for _, l := range in.static.Listeners[:1] {
		address := fmt.Sprintf("127.0.0.1:%d", l.GetAddress().GetSocketAddress().GetPortValue())
		until(ctx, in.t, func() bool {
			c, err := net.Dial("tcp", address)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
}

// served is an inbound that serves the app with these routes and faults.
func served(rc ir.RouteConfig, faults ...ir.Fault) ir.Chain {
	rc.Name = "app"
	return ir.Chain{
		Transport:     "tls",
		TLS:           "default",
		InboundPolicy: ir.InboundPolicy{Faults: faults},
		HTTP:          &ir.HTTP{StatPrefix: "app", Server: true, Callers: true, Routes: &rc},
	}
}

func toApp(limit *ir.RequestLimit, callers ...ir.IdentityMatch) ir.Route {
	r := ir.Route{
		Match:    ir.Match{Path: "/", Callers: callers},
		Backends: []ir.Backend{{Cluster: "app", Weight: 1}},
	}
	if limit != nil {
		r.Limit = ir.Share(*limit)
	}
	return r
}

// answers counts n answers by status.
func answers(t *testing.T, c *http.Client, address string, n int) map[int]int {
	t.Helper()
	out := map[int]int{}
	for range n {
		res, err := c.Get("https://" + address + "/")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		out[res.StatusCode]++
	}
	return out
}

func hour(n uint32) ir.Rate { return ir.Rate{Num: n, Interval: time.Hour} }

// TestLimitsAndFaults: with real certificates, each caller meets exactly what is said of it.
func TestLimitsAndFaults(t *testing.T) {
	envoy := envoytest.Binary(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	in := newInbounds(t)

	shop, shopAt := ir.IdentityMatch{
		SpiffeID: "spiffe://default/shop",
		Prefix:   true,
	}, ir.IdentityMatch{
		SpiffeID: "spiffe://default/shop",
		Prefix:   true,
		SNI:      "web.example",
	}
	limited := in.add("limited", served(ir.RouteConfig{
		Common: ir.RoutePolicy{Limit: ir.Share(ir.RequestLimit{
			Rate:   hour(5),
			Status: 423,
			Headers: ir.HeaderEdit{Set: []ir.Header{{Name: "x-limit", Value: "5, 10"}},
				Add: []ir.Header{{Name: "x-share", Value: "100%"}}},
		})},
		Routes: []ir.Route{toApp(&ir.RequestLimit{Rate: hour(3)}, shop),
			toApp(&ir.RequestLimit{}, ir.IdentityMatch{SpiffeID: "spiffe://default/probe"}),
			// Two routes that differ in something else and share the bucket of everybody.
			toApp(nil, ir.IdentityMatch{SpiffeID: "spiffe://default/slow"}), toApp(nil)},
	}))
	abort := func(status, share uint32, f ir.Fault) ir.Fault {
		f.Name, f.AbortStatus, f.Abort = "kri_mfi_default___test_", status, share
		return f
	}
	v1 := []ir.URIMatch{{URI: "spiffe://default/web"}, {URI: "kuma://version/v1"}}
	faulty := in.add("faulty", served(ir.RouteConfig{
		Common: ir.RoutePolicy{Limit: ir.Share(ir.RequestLimit{Rate: hour(2)})},
		Routes: []ir.Route{toApp(nil)},
	},
		abort(501, 1_000_000,
			ir.Fault{Callers: []ir.IdentityMatch{shopAt, {SpiffeID: "spiffe://default/batch"}}}),
		abort(502, 1_000_000, ir.Fault{Principal: &ir.Principal{
			All: []ir.URIMatch{{URI: "spiffe://default/web"}},
			Not: [][]ir.URIMatch{v1},
		}}),
		abort(503, 1_000_000, ir.Fault{Principal: &ir.Principal{All: []ir.URIMatch{{
			URI:    "kuma://team/",
			Prefix: true,
		}}}})))
	half := in.add("half", served(ir.RouteConfig{Routes: []ir.Route{toApp(nil)}},
		abort(500, 700_000, ir.Fault{}), abort(503, 500_000, ir.Fault{})))
	late := in.add("late", served(ir.RouteConfig{Routes: []ir.Route{toApp(nil)}}, ir.Fault{
		Name:    "late",
		DelayBy: 300 * time.Millisecond,
		Delay:   1_000_000,
		SlowTo:  1,
		Slow:    1_000_000,
	}))
	plain := ir.Chain{Transport: "raw_buffer", TCP: &ir.TCPProxy{StatPrefix: "raw", Cluster: "app"}}
	secure := served(ir.RouteConfig{Routes: []ir.Route{toApp(nil)}})
	connections := hour(3)
	plain.Connections, secure.Connections = &connections, &connections
	counted := in.add("counted", plain, secure)
	in.start(ctx, envoy)

	for _, tc := range []struct {
		what    string
		address string
		caller  *http.Client
		n       int
		want    map[int]int
	}{
		{"exempt", limited, in.caller("", "spiffe://default/probe"), 20, map[int]int{200: 20}},
		{"prefix", limited, in.caller("", "spiffe://default/shop/cart"), 2, map[int]int{200: 2}},
		{"the same prefix, among other identities", limited,
			in.caller("", "kuma://version/v1", "spiffe://default/shop", "spiffe://default/zzz"), 3,
			map[int]int{200: 1, 429: 2}},
		{"no prefix: other characters", limited, in.caller("", "spiffe://default/shopping"), 2,
			map[int]int{200: 2}},
		{"everybody", limited, in.caller("", "spiffe://default/slow"), 4, map[int]int{200: 3, 423: 1}},
		{"everybody, by another route", limited, in.caller("", "spiffe://default/other"), 2,
			map[int]int{423: 2}},

		{"fault by prefix and server name", faulty, in.caller("web.example", "spiffe://default/shop/cart"), 3,
			map[int]int{501: 3}},
		{"fault by identity", faulty, in.caller("", "kuma://version/v1", "spiffe://default/batch"), 3,
			map[int]int{501: 3}},
		{"fault by tags", faulty, in.caller("", "spiffe://default/web", "kuma://version/v2"), 3,
			map[int]int{502: 3}},
		{"fault by any value of a tag", faulty, in.caller("", "spiffe://default/x", "kuma://team/a"), 3,
			map[int]int{503: 3}},
		{"aborted requests took no tokens", faulty,
			in.caller("", "spiffe://default/web", "kuma://version/v1"), 3, map[int]int{200: 2, 429: 1}},
		{"another server name", faulty, in.caller("other.example", "spiffe://default/shop/cart"), 1,
			map[int]int{429: 1}},
	} {
		if diff := cmp.Diff(tc.want, answers(t, tc.caller, tc.address, tc.n)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tc.what, diff)
		}
	}

	res, err := in.caller("", "spiffe://default/other").Get("https://" + limited + "/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 423 || !slices.Equal(res.Header["X-Limit"], []string{"5, 10"}) ||
		!slices.Equal(res.Header["X-Share"], []string{"100%"}) {
		t.Errorf("the answer above the limit is %d with %v", res.StatusCode, res.Header)
	}

	// 70 % abort 500, half of the rest abort 503: five standard deviations of 1,000 requests are 73 and 57.
	got := answers(t, in.caller("", "spiffe://default/other"), half, 1000)
	if d := got[500] - 700; d < -73 || d > 73 {
		t.Errorf("%d of 1000 requests met 500, want about 700", got[500])
	}
	if d := got[503] - 150; d < -57 || d > 57 {
		t.Errorf("%d of 1000 requests met 503, want about 150", got[503])
	}

	start := time.Now()
	if got := answers(t, in.caller("", "spiffe://default/other"), late, 1); got[200] != 1 ||
		time.Since(start) < 290*time.Millisecond {
		t.Errorf("a delayed request: %v after %v", got, time.Since(start))
	}

	// In clear and by TLS, three connections together.
	open := 0
	for i := range 6 {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		scheme := "http://"
		if i%2 == 1 {
			c, scheme = in.caller("", "spiffe://default/other"), "https://"
		}
		if res, err := c.Get(scheme + counted + "/"); err == nil {
			_ = res.Body.Close()
			open++
		}
	}
	if open != 3 {
		t.Errorf("%d connections were let through, want 3", open)
	}
}
