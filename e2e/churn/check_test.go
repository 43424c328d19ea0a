package churn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/xds/delta"
)

// admin speaks to an Envoy.
type admin struct{ client *http.Client }

func newAdmin(socket string) admin {
	return admin{&http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
		},
	}}
}

func (a admin) fetch(path string) ([]byte, error) {
	resp, err := a.client.Get("http://envoy" + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, resp.StatusCode, body)
	}
	return body, err
}

// dump is a part of Envoy's configuration, into which take is given every entry.
func (a admin) dump(resource string, take func(*anypb.Any) error) error {
	body, err := a.fetch("/config_dump?resource=" + resource)
	if err != nil {
		return err
	}
	var d adminv3.ConfigDump
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &d); err != nil {
		return fmt.Errorf("%s: %w", resource, err)
	}
	for _, c := range d.GetConfigs() {
		if err := take(c); err != nil {
			return fmt.Errorf("%s: %w", resource, err)
		}
	}
	return nil
}

// counters are Envoy's counters and gauges that match a pattern and are not zero.
func (a admin) counters(pattern string) (map[string]int64, error) {
	body, err := a.fetch("/stats?usedonly&filter=" + url.QueryEscape(pattern))
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseInt(value, 10, 64); ok && err == nil && n != 0 {
			out[name] = n
		}
	}
	return out, nil
}

// loaded is a listener, cluster or route as Envoy has it.
type loaded struct {
	version, updated string
	body             proto.Message
}

// take notes a resource; the body is of the type of into.
func take(to map[string]loaded, version, updated string, a *anypb.Any, into proto.Message,
	name func() string) error {
	if err := a.UnmarshalTo(into); err != nil {
		return err
	}
	to[name()] = loaded{version, updated, into}
	return nil
}

// listeners are those that are active. One that is loading, or going, is an error: it is to be asked again.
func (p *proxy) listeners() (map[string]loaded, error) {
	out := map[string]loaded{}
	err := p.admin.dump("dynamic_listeners", func(c *anypb.Any) error {
		var l adminv3.ListenersConfigDump_DynamicListener
		if err := c.UnmarshalTo(&l); err != nil {
			return err
		}
		if l.GetWarmingState() != nil || l.GetErrorState() != nil || l.GetActiveState() == nil {
			if l.GetDrainingState() != nil && l.GetWarmingState() == nil && l.GetErrorState() == nil {
				return nil
			}
			return fmt.Errorf("listener %s is loading, or was rejected: %v", l.GetName(), l.GetErrorState())
		}
		s := l.GetActiveState()
		m := &listenerv3.Listener{}
		return take(out, s.GetVersionInfo(), s.GetLastUpdated().AsTime().String(), s.GetListener(), m,
			m.GetName)
	})
	return out, err
}

func (p *proxy) clusters() (map[string]loaded, error) {
	out := map[string]loaded{}
	err := p.admin.dump("dynamic_active_clusters", func(c *anypb.Any) error {
		var d adminv3.ClustersConfigDump_DynamicCluster
		if err := c.UnmarshalTo(&d); err != nil {
			return err
		}
		m := &clusterv3.Cluster{}
		return take(out, d.GetVersionInfo(), d.GetLastUpdated().AsTime().String(), d.GetCluster(), m,
			m.GetName)
	})
	return out, err
}

func (p *proxy) routes() (map[string]loaded, error) {
	out := map[string]loaded{}
	err := p.admin.dump("dynamic_route_configs", func(c *anypb.Any) error {
		var d adminv3.RoutesConfigDump_DynamicRouteConfig
		if err := c.UnmarshalTo(&d); err != nil {
			return err
		}
		m := &routev3.RouteConfiguration{}
		return take(out, d.GetVersionInfo(), d.GetLastUpdated().AsTime().String(), d.GetRouteConfig(), m,
			m.GetName)
	})
	return out, err
}

// secrets are versions: the rest is redacted.
func (p *proxy) secrets() (map[string]string, error) {
	out := map[string]string{}
	err := p.admin.dump("dynamic_active_secrets", func(c *anypb.Any) error {
		var d adminv3.SecretsConfigDump_DynamicSecret
		err := c.UnmarshalTo(&d)
		out[d.GetName()] = d.GetVersionInfo()
		return err
	})
	return out, err
}

// hosts are the endpoints that Envoy balances over, by cluster, each as a line.
func (p *proxy) hosts() (map[string][]string, error) {
	body, err := p.admin.fetch("/clusters?format=json")
	if err != nil {
		return nil, err
	}
	var all adminv3.Clusters
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &all); err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, c := range all.GetClusterStatuses() {
		lines := []string{}
		for _, h := range c.GetHostStatuses() {
			s := h.GetAddress().GetSocketAddress()
			lines = append(lines,
				hostLine(s, h.GetHealthStatus().GetEdsHealthStatus(), h.GetPriority(), h.GetWeight(),
					h.GetLocality()))
		}
		slices.Sort(lines)
		out[c.GetName()] = lines
	}
	return out, nil
}

func hostLine(s *corev3.SocketAddress, health corev3.HealthStatus, priority, weight uint32,
	l *corev3.Locality) string {
	if health == corev3.HealthStatus_UNKNOWN {
		health = corev3.HealthStatus_HEALTHY
	}
	return fmt.Sprintf("%s:%d %s priority %d weight %d in %s/%s", s.GetAddress(), s.GetPortValue(), health,
		priority, max(weight, 1), l.GetZone(), l.GetSubZone())
}

// compare says how an Envoy differs from what the engine believes.
func (w *world) compare(p *proxy) error {
	table := w.table(p)
	if table == nil {
		return errors.New("the engine does not follow it")
	}
	inPlace, err := p.admin.counters(`^listener_manager\.listener_in_place_updated$`)
	errs := []error{err}
	for _, part := range []struct {
		typ  delta.Type
		read func() (map[string]loaded, error)
	}{{delta.TypeCluster, p.clusters}, {delta.TypeListener, p.listeners}, {delta.TypeRoute, p.routes}} {
		has, err := part.read()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, compareLoaded(part.typ, table, has,
			part.typ == delta.TypeListener && len(inPlace) > 0))
	}
	errs = append(errs, w.compareHosts(p, table), w.compareSecrets(p, table))
	return errors.Join(errs...)
}

// compareLoaded compares by content, and by version too unless those are known to be kept: of a
// listener of which nothing but filter chains changed Envoy takes the new content into the old
// listener, which shows the version that it had.
func compareLoaded(typ delta.Type, table *delta.Table, has map[string]loaded, keptVersions bool) error {
	var errs []error
	should := map[string]bool{}
	for r := range table.All(typ) {
		should[r.Name] = true
		l, ok := has[r.Name]
		if !ok {
			errs = append(errs, fmt.Errorf("%s %s is not there", typ, r.Name))
			continue
		}
		want := l.body.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(r.Body, want); err != nil {
			return err
		}
		switch {
		case !proto.Equal(want, l.body):
			errs = append(errs,
				fmt.Errorf("%s %s of version %s is\n%v\nwant %s\n%v", typ, r.Name, l.version, l.body,
					r.Version, want))
		case l.version != r.Version && !keptVersions:
			errs = append(errs,
				fmt.Errorf("%s %s has the version %s, want %s", typ, r.Name, l.version, r.Version))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(has)) {
		if !should[name] {
			errs = append(errs, fmt.Errorf("%s %s is too many", typ, name))
		}
	}
	return errors.Join(errs...)
}

func (w *world) compareHosts(p *proxy, table *delta.Table) error {
	has, err := p.hosts()
	if err != nil {
		return err
	}
	var errs []error
	for r := range table.All(delta.TypeEndpoint) {
		var cla endpointv3.ClusterLoadAssignment
		if err := proto.Unmarshal(r.Body, &cla); err != nil {
			return err
		}
		want := []string{}
		for _, l := range cla.GetEndpoints() {
			for _, e := range l.GetLbEndpoints() {
				want = append(want,
					hostLine(e.GetEndpoint().GetAddress().GetSocketAddress(), e.GetHealthStatus(),
						l.GetPriority(),
						e.GetLoadBalancingWeight().GetValue(), l.GetLocality()))
			}
		}
		slices.Sort(want)
		if got, ok := has[r.Name]; !ok || !slices.Equal(got, want) {
			errs = append(errs, fmt.Errorf("hosts of %s are %q, want %q", r.Name, got, want))
		}
	}
	return errors.Join(errs...)
}

func (w *world) compareSecrets(p *proxy, table *delta.Table) error {
	has, err := p.secrets()
	if err != nil {
		return err
	}
	want := map[string]string{}
	for r := range table.All(delta.TypeSecret) {
		want[r.Name] = r.Version
	}
	if !maps.Equal(has, want) {
		return fmt.Errorf("secrets %v, want %v", has, want)
	}
	return nil
}

// rejected is an error if Envoy's own counters say that it took something not.
func (p *proxy) rejected() error {
	got, err := p.admin.counters(`(update_rejected|listener_create_failure|fail_load)$`)
	if err == nil && len(got) > 0 {
		err = fmt.Errorf("it rejected: %v", got)
	}
	return err
}

// change is a listener that is another than at the last look.
type change struct {
	name string
	port uint32
}

func portOf(l loaded) uint32 {
	return l.body.(*listenerv3.Listener).GetAddress().GetSocketAddress().GetPortValue()
}

// reloads compares the listeners with those of the last look, and returns those that changed, came
// or went. One whose content is as before and that was loaded again is an error.
func (p *proxy) reloads() ([]change, error) {
	now, err := p.listeners()
	if err != nil {
		return nil, err
	}
	before := p.seen
	p.seen = now
	if before == nil {
		return nil, nil
	}
	var out []change
	var errs []error
	for name, l := range now {
		was, ok := before[name]
		switch {
		case !ok || !proto.Equal(was.body, l.body):
			out = append(out, change{name, portOf(l)})
		case was.updated != l.updated && was.version == l.version:
			errs = append(errs,
				fmt.Errorf("listener %s was loaded again with the same content, at %s", name, l.updated))
		}
	}
	for name, l := range before {
		if _, ok := now[name]; !ok {
			out = append(out, change{name, portOf(l)})
		}
	}
	return out, errors.Join(errs...)
}
