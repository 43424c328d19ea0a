package launcher

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// proxy is what the resource says about the proxy.
type proxy struct {
	proxyType string
	mesh      string // empty for zone proxies
	name      string
	nodeID    string
	// cluster is the node's cluster: the first service tag, or the proxy type.
	cluster string
	// document is the resource as JSON, for the zone and for the node's metadata.
	document string
	// sections are all inbounds: their names, else their ports as text.
	sections []string
	targets  []target
}

// target is one port of the application.
type target struct {
	// section is the inbound's name, else its port as text.
	section  string
	address  string
	interval time.Duration
	timeout  time.Duration
	// unhealthy and healthy count the attempts in a row that change the verdict.
	unhealthy, healthy int
	// given says that the Dataplane has a serviceProbe, whose interval is kept in every state.
	given bool
}

// Kinds of resources by proxy type.
var kindOf = map[string]mesh.Kind{"dataplane": mesh.KindDataplane, "ingress": mesh.KindZoneIngress}

func readProxy(data []byte, proxyType string) (proxy, error) {
	p := proxy{proxyType: proxyType}
	want, ok := kindOf[proxyType]
	switch {
	case proxyType == "egress":
		return p, errors.New("--proxy-type egress is not there yet; dataplane and ingress are")
	case !ok:
		return p, fmt.Errorf("--proxy-type %q: must be dataplane or ingress", proxyType)
	case len(bytes.TrimSpace(data)) == 0:
		return p, errors.New("the resource is empty; give --dataplane-file with a Dataplane or a ZoneIngress")
	}
	docs, err := codec.Decode(data)
	if err != nil {
		return p, fmt.Errorf("resource: %w", err)
	}
	if len(docs) != 1 {
		return p, fmt.Errorf("resource: must be one document, got %d", len(docs))
	}
	r := docs[0].Resource
	if r.Key.Kind != want {
		return p, fmt.Errorf("resource: %s does not go with --proxy-type %s, which needs a %s", r.Key.Kind,
			proxyType, want)
	}
	encoded, err := codec.EncodeJSON(r)
	if err != nil {
		return p, fmt.Errorf("resource: %w", err)
	}
	p.document, p.mesh, p.name = string(encoded), r.Key.Mesh, r.Key.Name
	p.nodeID = p.mesh + "." + p.name
	p.cluster = proxyType
	if dp, ok := r.Spec.(*meshv1.Dataplane); ok {
		p.targets = targets(dp)
		for _, in := range dp.GetNetworking().GetInbound() {
			p.sections = append(p.sections, selector.Section(in))
		}
		for _, in := range dp.GetNetworking().GetInbound() {
			if s := in.GetTags()[mesh.TagService]; s != "" {
				p.cluster = s
				break
			}
		}
	}
	return p, nil
}

// targets are the application ports to watch. A port that Envoy itself listens on says nothing
// about the application, so an inbound whose service address is its own address is left out.
func targets(dp *meshv1.Dataplane) []target {
	var out []target
	for _, in := range dp.GetNetworking().GetInbound() {
		if in.GetState() == "Ignored" {
			continue
		}
		host := firstOf(in.GetAddress(), dp.GetNetworking().GetAddress())
		appHost := firstOf(in.GetServiceAddress(), host)
		port := in.GetPort()
		appPort := in.GetServicePort()
		if appPort == 0 {
			appPort = port
		}
		if appHost == host && appPort == port {
			continue
		}
		t := target{
			section:   selector.Section(in),
			address:   net.JoinHostPort(appHost, fmt.Sprint(appPort)),
			interval:  time.Second,
			timeout:   time.Second,
			unhealthy: 1,
			healthy:   1,
		}
		if probe := in.GetServiceProbe(); probe != nil {
			t.given = true
			if d := probe.GetInterval().AsDuration(); d > 0 {
				t.interval = d
			}
			if d := probe.GetTimeout().AsDuration(); d > 0 {
				t.timeout = d
			}
			t.unhealthy = max(1, int(probe.GetUnhealthyThreshold()))
			t.healthy = max(1, int(probe.GetHealthyThreshold()))
		}
		out = append(out, t)
	}
	return out
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// checkToken finds what is wrong with a token without the key: form and expiry. The token's text is
// in no error.
func checkToken(token string, now time.Time) error {
	switch {
	case strings.TrimSpace(token) == "":
		return errors.New("the token is empty; give --token-file (make one with: meridian token dataplane)")
	case strings.ContainsAny(strings.TrimSpace(token), " \n\r\t"):
		return errors.New("the token has several lines or words; the file must hold the bare token")
	}
	parts := strings.Split(strings.TrimSpace(token), ".")
	var claims struct {
		Expires *float64 `json:"exp"`
	}
	ok := len(parts) == 3
	if ok {
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		ok = err == nil && json.Unmarshal(payload, &claims) == nil
	}
	if !ok {
		return errors.New("the token is not a token of a control plane (a JWT); make one with: meridian " +
			"token dataplane")
	}
	if claims.Expires != nil {
		if at := time.Unix(int64(*claims.Expires), 0); now.After(at) {
			return fmt.Errorf("the token expired at %s; make a new one with: meridian token dataplane",
				at.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func parseCP(cp string) (host, address string, err error) {
	u, err := url.Parse(cp)
	if err != nil || u.Host == "" || u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return "", "", fmt.Errorf("--cp %q: must be https://HOST:5678, the zone's xDS address", cp)
	}
	port := u.Port()
	if port == "" {
		port = "5678"
	}
	return u.Hostname(), net.JoinHostPort(u.Hostname(), port), nil
}

// findEnvoy finds the binary and asks it for its version.
func findEnvoy(given string) (path, version string, err error) {
	path = given
	if path == "" {
		path = lookEnvoy()
	}
	if path == "" {
		return "", "", errors.New("no Envoy found: not on PATH and no .tools/envoy; give --envoy " +
			"PATH (in the " +
			"repository: make tools)")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("no Envoy found: %s --version: %w; give --envoy PATH", path, err)
	}
	// "envoy  version: <commit>/<version>/Clean/RELEASE/BoringSSL"
	for _, part := range strings.Split(string(out), "/") {
		if strings.Count(part, ".") == 2 && part[0] >= '0' && part[0] <= '9' {
			return path, part, nil
		}
	}
	return "", "", fmt.Errorf("%s --version does not answer as Envoy does; give --envoy PATH", path)
}

func lookEnvoy() string {
	if p, err := exec.LookPath("envoy"); err == nil {
		return p
	}
	var near []string
	if self, err := os.Executable(); err == nil {
		dir := filepath.Dir(self)
		near = append(near, filepath.Join(dir, "envoy"), filepath.Join(dir, ".tools", "envoy"),
			filepath.Join(dir, "..", ".tools", "envoy"))
	}
	near = append(near, filepath.Join(".tools", "envoy"))
	for _, p := range near {
		if info, err := os.Stat(p); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}
