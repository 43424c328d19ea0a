package api

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// overview joins a resource with what is known of its liveness, in the peer's shape (rest-api 2.4):
// clients compute the state from the subscriptions.
type overview struct {
	typ, spec, insight string
}

func overviewOf(k mesh.Kind) *overview {
	switch k {
	case mesh.KindDataplane:
		return &overview{"DataplaneOverview", "dataplane", "dataplaneInsight"}
	case mesh.KindZoneIngress:
		return &overview{"ZoneIngressOverview", "zoneIngress", "zoneIngressInsight"}
	case mesh.KindZone:
		return &overview{"ZoneOverview", "zone", "zoneInsight"}
	}
	return nil
}

// overviewItem is the single form: an absent insight is an empty object.
func (a *API) overviewItem(ctx context.Context, r *mesh.Resource) ([]byte, error) {
	info, _ := mesh.Lookup(r.Key.Kind)
	items, err := a.joined(ctx, info, []*mesh.Resource{r}, true)
	if err != nil {
		return nil, err
	}
	return items[0], nil
}

// overviewItems is the list form: an absent insight is left out.
func (a *API) overviewItems(ctx context.Context, info *mesh.KindInfo,
	rs []*mesh.Resource) ([]json.RawMessage, error) {
	return a.joined(ctx, info, rs, false)
}

func (a *API) joined(ctx context.Context, info *mesh.KindInfo, rs []*mesh.Resource,
	single bool) ([]json.RawMessage, error) {
	insights, err := a.insights(ctx, info, rs)
	if err != nil {
		return nil, err
	}
	o := overviewOf(info.Kind)
	out := []json.RawMessage{}
	for _, r := range rs {
		obj := &codec.Object{}
		obj.Set("type", o.typ)
		if r.Key.Mesh != "" {
			obj.Set("mesh", r.Key.Mesh)
		}
		obj.Set("name", r.Key.Name)
		obj.Set("creationTime", r.Created.UTC().Format(time.RFC3339Nano))
		obj.Set("modificationTime", r.Modified.UTC().Format(time.RFC3339Nano))
		labels := &codec.Object{}
		for _, k := range sortedKeys(r.Labels) {
			labels.Set(k, r.Labels[k])
		}
		obj.Set("labels", labels)
		if kri := r.Key.KRI(""); kri != "" {
			obj.Set("kri", kri)
		}
		obj.Set(o.spec, codec.EncodeMessage(r.Spec))
		switch insight := a.subscriptions(r, insights); {
		case insight != nil:
			obj.Set(o.insight, insight)
		case single:
			obj.Set(o.insight, &codec.Object{})
		}
		raw, err := obj.MarshalJSON()
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// insights of proxies by key; zones keep theirs in their status.
func (a *API) insights(ctx context.Context, info *mesh.KindInfo,
	rs []*mesh.Resource) (map[mesh.Key]*mesh.Resource, error) {
	out := map[mesh.Key]*mesh.Resource{}
	if info.Kind == mesh.KindZone || len(rs) == 0 {
		return out, nil
	}
	view, err := a.view(ctx, 0)
	if err != nil {
		return nil, err
	}
	kind, _ := mesh.Lookup(mesh.InsightKey(rs[0].Key).Kind)
	if a.remote(kind) {
		s := selection{kind: kind, size: int(^uint(0) >> 2), mesh: rs[0].Key.Mesh}
		for _, r := range rs {
			if r.Key.Mesh != s.mesh {
				s.mesh = ""
			}
		}
		if len(rs) == 1 {
			s.name, s.zone = rs[0].Key.Name, &rs[0].Key.Zone
		}
		got, err := a.listRemote(ctx, view, kind, s)
		if err != nil {
			return nil, err
		}
		for _, r := range got.resources {
			out[r.Key] = r
		}
		return out, nil
	}
	for _, r := range rs {
		if in, ok := view.Get(mesh.InsightKey(r.Key)); ok {
			out[in.Key] = in
		}
	}
	return out, nil
}

// subscriptions is the insight as the peer's clients read it: online is a subscription with a
// connect time and no disconnect time.
func (a *API) subscriptions(r *mesh.Resource, insights map[mesh.Key]*mesh.Resource) *codec.Object {
	sub := &codec.Object{}
	insight := &codec.Object{}
	if r.Key.Kind == mesh.KindZone {
		st := mesh.Status[*meshv1.ZoneStatus](r)
		if st == nil {
			return nil
		}
		sub.Set("id", st.GetInstance())
		sub.Set("globalInstanceId", a.conf.Instance)
		sub.Set("connectTime", r.Modified.UTC().Format(time.RFC3339Nano))
		if st.GetState() == "Offline" || st.GetState() == "Stale" {
			sub.Set("disconnectTime", r.Modified.UTC().Format(time.RFC3339Nano))
		}
		version, cp := &codec.Object{}, &codec.Object{}
		cp.Set("version", st.GetVersion())
		version.Set("kumaCp", cp)
		sub.Set("version", version)
		insight.Set("subscriptions", []any{sub})
		insight.Set("state", st.GetState())
		return insight
	}
	in, ok := insights[mesh.InsightKey(r.Key)]
	if !ok {
		return nil
	}
	p := mesh.Spec[*meshv1.ProxyInsight](in)
	sub.Set("id", p.GetInstance()+"-"+in.Key.Name)
	sub.Set("controlPlaneInstanceId", p.GetInstance())
	if p.GetConnected() != nil {
		sub.Set("connectTime", p.GetConnected().AsTime().Format(time.RFC3339Nano))
	}
	if p.GetDisconnected() != nil {
		sub.Set("disconnectTime", p.GetDisconnected().AsTime().Format(time.RFC3339Nano))
	}
	version, dp, envoy := &codec.Object{}, &codec.Object{}, &codec.Object{}
	dp.Set("version", p.GetLauncherVersion())
	envoy.Set("version", p.GetEnvoyVersion())
	version.Set("kumaDp", dp)
	version.Set("envoy", envoy)
	sub.Set("version", version)
	insight.Set("subscriptions", []any{sub})
	insight.Set("state", p.GetState())
	return insight
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// kubernetesJSON is the Kubernetes form as JSON; user labels stay, those that a control plane computes go.
func kubernetesJSON(r *mesh.Resource) ([]byte, error) {
	c := *r
	c.Labels = map[string]string{}
	for k, v := range r.Labels {
		switch k {
		case mesh.LabelOrigin, mesh.LabelZone, mesh.LabelEnv, mesh.LabelProxyType:
		default:
			c.Labels[k] = v
		}
	}
	text, err := codec.EncodeKubernetes(&c)
	if err != nil {
		return nil, err
	}
	var v any
	if err := yaml.Unmarshal([]byte(strings.TrimPrefix(string(text), "---\n")), &v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
