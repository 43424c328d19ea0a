package bootstrap_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
	"github.com/meridian-mesh/meridian/test/envoytest"
)

// TestStatisticsKeepTheirTags compares names and tags of all statistics of a real Envoy with those that
// Kuma's expressions give, which are simple and slow.
func TestStatisticsKeepTheirTags(t *testing.T) {
	t.Parallel()

	kuma := []any{}
	for _, tag := range [][2]string{
		{"name", `^grpc\.((.+)\.)`},
		{"status", `^grpc.*streams_closed(_([0-9]+))`},
		{"kafka_name", `^kafka(\.(\S*[0-9]))\.`},
		{"kafka_type", `^kafka\..*\.(.*?(?=_duration|$))`},
		{"worker", `(worker_([0-9]+)\.)`},
		{"listener", `((.+?)\.)rbac\.`},
	} {
		kuma = append(kuma, map[string]any{"tag_name": tag[0], "regex": tag[1]})
	}
	expected := statistics(t, map[string]any{"stats_tags": kuma})

	for _, sample := range []string{
		`envoy_grpc_streams_closed{envoy_google_grpc_client_prefix="ads",name="ads",status="14"}`,
		`envoy_listener_downstream_cx_active{envoy_listener_address="named",envoy_worker_id="1",worker="1"}`,
		`envoy_server_watchdog_miss{envoy_worker_id="0",worker="0"}`,
		`envoy_rbac_allowed{envoy_rbac_prefix="self_inbound_dp_8080",listener="self_inbound_dp_8080"}`,
		`envoy_rbac_denied{envoy_rbac_prefix="self_inbound_dp_tcp-port",listener="self_inbound_dp_tcp-port"}`,
		`envoy_rbac_allowed{envoy_http_conn_manager_prefix="self_inbound_dp_web",` +
			`listener="http.self_inbound_dp_web"}`,
	} {
		if !slices.Contains(expected, sample) {
			t.Errorf("Envoy has no statistic %s", sample)
		}
	}

	for name, inbounds := range map[string][]string{
		"inbounds are known":     {"8080", "web"},
		"a section with a minus": {"8080", "web", "tcp-port"},
		"inbounds are not known": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			got := statistics(t, statsConfig(t, inbounds))
			for _, s := range expected {
				unknown := inbounds != nil && !slices.Contains(inbounds, "tcp-port")
				if unknown && strings.Contains(s, `listener="self_inbound_dp_tcp-port"`) {
					continue // this inbound was not named
				}
				if !slices.Contains(got, s) {
					t.Errorf("missing: %s", s)
				}
			}
			if len(got) != len(expected) {
				t.Errorf("got %d statistics, want %d", len(got), len(expected))
			}
		})
	}
}

// statsConfig is the part of a bootstrap that is compared.
func statsConfig(t *testing.T, inbounds []string) map[string]any {
	t.Helper()

	cfg := bootstrap.Config{
		NodeID:    "default.web",
		ProxyType: "dataplane",
		Inbounds:  inbounds,
		Host:      "localhost",
		Port:      5678,
		Insecure:  true,
	}
	if inbounds != nil {
		cfg.Resource = "type: Dataplane"
	}
	var doc struct {
		Stats map[string]any `json:"stats_config"`
	}
	if err := json.Unmarshal(document(t, cfg), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Stats
}

// statistics starts an Envoy that has statistics of all kinds, and gives each as Prometheus sees it, with
// its labels sorted.
func statistics(t *testing.T, stats map[string]any) []string {
	t.Helper()

	type object = map[string]any
	address := func(port int) object {
		return object{"socket_address": object{"address": "127.0.0.1", "port_value": port}}
	}
	extension := func(name, kind string, fields object) object {
		fields["@type"] = "type.googleapis.com/envoy.extensions.filters." + kind
		return object{"name": name, "typed_config": fields}
	}
	listener := func(prefix string, filters ...object) object {
		return object{
			"name":          prefix,
			"stat_prefix":   prefix,
			"address":       address(0),
			"filter_chains": []object{{"filters": filters}},
		}
	}
	rules := object{"policies": object{"all": object{
		"permissions": []object{{"any": true}},
		"principals":  []object{{"any": true}},
	}}}
	tcp := func(section string) object {
		name := "self_inbound_dp_" + section
		return listener(name,
			extension("rbac", "network.rbac.v3.RBAC", object{"stat_prefix": name + ".", "rules": rules}),
			extension("tcp", "network.tcp_proxy.v3.TcpProxy",
				object{"stat_prefix": name, "cluster": "local"}))
	}
	connections := extension("hcm", "network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix":  "self_inbound_dp_web",
		"route_config": object{},
		"http_filters": []object{
			extension("rbac", "http.rbac.v3.RBAC", object{"rules": rules}),
			extension("router", "http.router.v3.Router", object{}),
		},
	})

	dir := t.TempDir()
	socket := filepath.Join(dir, "admin")
	ads := object{"ads": object{}, "resource_api_version": "V3", "initial_fetch_timeout": "0.1s"}
	doc, err := json.Marshal(object{
		"node":         object{"id": "id", "cluster": "cluster"},
		"admin":        object{"address": object{"pipe": object{"path": socket}}},
		"stats_config": stats,
		"dynamic_resources": object{
			"cds_config": ads,
			"ads_config": object{
				"api_type":              "DELTA_GRPC",
				"transport_api_version": "V3",
				"grpc_services": []object{{
					"google_grpc": object{"target_uri": "127.0.0.1:1", "stat_prefix": "ads"},
				}},
			},
		},
		"static_resources": object{
			"clusters": []object{{"name": "local", "connect_timeout": "1s"}},
			"listeners": []object{
				tcp("8080"),
				tcp("tcp-port"),
				listener("named", connections),
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, envoytest.Binary(t), "-c", write(t, dir, "envoy.json", doc),
		"--use-dynamic-base-id", "--concurrency", "2", "--log-level", "error")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Envoy:\n%s", &log)
		}
	}()

	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if text, err := get(ctx, client, "/stats"); err == nil && complete(text) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("Envoy does not have all of its statistics")
		}
	}

	text, err := get(ctx, client, "/stats?format=prometheus")
	if err != nil {
		t.Fatal(err)
	}
	return labels(text)
}

// complete says whether all workers have started and have their statistics, in whatever order.
func complete(text string) bool {
	for _, worker := range []string{"worker_0", "worker_1"} {
		for _, name := range []string{
			"listener.named." + worker + ".downstream_cx_total",
			"server." + worker + ".watchdog_miss",
			"server." + worker + ".watchdog_mega_miss",
			"thread_local_cluster_manager." + worker + ".clusters_inflated",
		} {
			if !strings.Contains(text, name) {
				return false
			}
		}
	}
	return strings.Contains(text, "listener_manager.workers_started: 1")
}

func get(ctx context.Context, client *http.Client, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy"+path, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()

	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// labels gives the distinct names of Prometheus' text format with sorted labels. Buckets of histograms are
// left out, since the text has them only after a first value; so are labels with an empty value, which
// Prometheus' data model equates with labels that are not there.
func labels(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, "{")
		set, _, ok2 := strings.Cut(rest, "}")
		if !ok || !ok2 || strings.HasPrefix(line, "#") || strings.HasSuffix(name, "_bucket") {
			continue
		}
		sorted := slices.DeleteFunc(strings.Split(set, ","), func(label string) bool {
			return strings.HasSuffix(label, `=""`)
		})
		slices.Sort(sorted)
		out = append(out, fmt.Sprintf("%s{%s}", name, strings.Join(sorted, ",")))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
