package rest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// overview joins a resource with what is known of its liveness, in Kuma's shape: clients
// compute the state from the subscriptions.
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
func (c collection) overviewItem(ctx context.Context, r *mesh.Resource) (*codec.Object, error) {
	items, err := c.joined(ctx, []*mesh.Resource{r}, true)
	if err != nil {
		return nil, err
	}
	return items[0], nil
}

// overviews is the list form: an absent insight is left out.
func (c collection) overviews(ctx context.Context, rs []*mesh.Resource) ([]*codec.Object, error) {
	return c.joined(ctx, rs, false)
}

func (c collection) joined(ctx context.Context, rs []*mesh.Resource, single bool) ([]*codec.Object, error) {
	insights, err := c.core.Insights(ctx, rs)
	if err != nil {
		return nil, err
	}
	o := overviewOf(c.info.Kind)
	var out []*codec.Object
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
		for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
			labels.Set(k, r.Labels[k])
		}
		obj.Set("labels", labels)
		if kri := r.Key.KRI(""); kri != "" {
			obj.Set("kri", kri)
		}
		obj.Set(o.spec, codec.EncodeMessage(r.Spec))
		switch insight := c.subscriptions(r, insights); {
		case insight != nil:
			obj.Set(o.insight, insight)
		case single:
			obj.Set(o.insight, &codec.Object{})
		}
		out = append(out, obj)
	}
	return out, nil
}

// subscriptions is the insight as Kuma's clients read it: online is a subscription with a
// connect time and no disconnect time.
func (c collection) subscriptions(r *mesh.Resource, insights map[mesh.Key]*mesh.Resource) *codec.Object {
	sub := &codec.Object{}
	insight := &codec.Object{}
	if r.Key.Kind == mesh.KindZone {
		st := mesh.Status[*meshv1.ZoneStatus](r)
		if st == nil {
			return nil
		}
		sub.Set("id", st.GetInstance())
		sub.Set("globalInstanceId", c.core.Info().Instance)
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
