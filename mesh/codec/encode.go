package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/mesh"
)

// MarshalYAML gives a node with the keys in their order.
func (o *Object) MarshalYAML() (any, error) { return yamlNode(o) }

func yamlNode(v any) (*yaml.Node, error) {
	n := &yaml.Node{}
	switch v := v.(type) {
	case *Object:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		for i, k := range v.keys {
			key := yamlText(k)
			value, err := yamlNode(v.values[i])
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, key, value)
		}
		return n, nil
	case []any:
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		for _, item := range v {
			child, err := yamlNode(item)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		return n, nil
	case string:
		return yamlText(v), nil
	case json.Number:
		n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!int", v.String()
		return n, nil
	}
	return n, n.Encode(v)
}

// yamlText is a scalar that reads back as the same text.
func yamlText(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if s == "<<" { // the encoder would leave it bare, which is a merge
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// Encode gives the Universal form as users write it, with what only the control plane writes: type,
// mesh, name, creationTime, modificationTime, labels, kri, then spec (or, for Flat kinds, its
// fields), then status. Whatever is empty is left out. [Decode] reads it back to an equal resource,
// except for times, revisions and status.
func Encode(r *mesh.Resource) (*Object, error) {
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok {
		return nil, fmt.Errorf("%w %q", mesh.ErrUnknownKind, r.Key.Kind)
	}
	o := &Object{}
	o.Set("type", string(r.Key.Kind))
	if info.Scope == mesh.ScopeMesh {
		o.Set("mesh", r.Key.Mesh)
	}
	o.Set("name", r.Key.Name)
	if !r.Created.IsZero() {
		o.Set("creationTime", formatTime(r.Created))
	}
	if !r.Modified.IsZero() {
		o.Set("modificationTime", formatTime(r.Modified))
	}
	labels := r.Labels
	if r.Key.Namespace != "" && labels[mesh.LabelNamespace] == "" {
		// The Universal form has no other place for the namespace.
		labels = maps.Clone(labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels[mesh.LabelNamespace] = r.Key.Namespace
	}
	if len(labels) > 0 {
		o.Set("labels", textObject(labels))
	}
	if kri := r.Key.KRI(""); kri != "" {
		o.Set("kri", kri)
	}
	spec := r.Spec
	if spec == nil {
		spec = info.NewSpec()
	}
	if info.Flat {
		encoder{}.fields(o, spec.ProtoReflect())
	} else {
		o.Set("spec", EncodeMessage(spec))
	}
	if r.Status != nil {
		o.Set("status", EncodeMessage(r.Status))
	}
	return o, nil
}

// EncodeJSON is [Encode] as JSON text.
func EncodeJSON(r *mesh.Resource) ([]byte, error) {
	o, err := Encode(r)
	if err != nil {
		return nil, err
	}
	return o.MarshalJSON()
}

// EncodeYAML is [Encode] as a YAML document, without a document marker.
func EncodeYAML(r *mesh.Resource) ([]byte, error) {
	o, err := Encode(r)
	if err != nil {
		return nil, err
	}
	return toYAML(o)
}

func toYAML(o *Object) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(o); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

// EncodeKubernetes gives the Kubernetes form as a YAML document. Resources without a namespace that
// Kubernetes wants in one get the system namespace. Secrets become Secrets of Kubernetes' own.
func EncodeKubernetes(r *mesh.Resource) ([]byte, error) {
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok {
		return nil, fmt.Errorf("%w %q", mesh.ErrUnknownKind, r.Key.Kind)
	}
	spec := r.Spec
	if spec == nil {
		spec = info.NewSpec()
	}
	o, meta := &Object{}, &Object{}
	meta.Set("name", r.Key.Name)
	switch {
	case r.Key.Namespace != "":
		meta.Set("namespace", r.Key.Namespace)
	case !info.Flat || info.Secret():
		meta.Set("namespace", mesh.SystemNamespace)
	}
	labels := maps.Clone(r.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	inLabel := info.Scope == mesh.ScopeMesh && (!info.Flat || info.Secret())
	if inLabel {
		labels[mesh.LabelMesh] = r.Key.Mesh
	}
	if len(labels) > 0 {
		meta.Set("labels", textObject(labels))
	}
	if info.Secret() {
		o.Set("apiVersion", "v1")
		o.Set("kind", "Secret")
		o.Set("metadata", meta)
		o.Set("type", "system.kuma.io/secret")
		if info.Kind == mesh.KindGlobalSecret {
			o.Set("type", "system.kuma.io/global-secret")
		}
		data := &Object{}
		value := spec.ProtoReflect().Descriptor().Fields().ByName("data")
		data.Set("value", encoder{}.value(value, spec.ProtoReflect().Get(value)))
		o.Set("data", data)
		return toYAML(o)
	}
	o.Set("apiVersion", APIVersion)
	o.Set("kind", string(r.Key.Kind))
	if info.Scope == mesh.ScopeMesh && info.Flat {
		o.Set("mesh", r.Key.Mesh)
	}
	o.Set("metadata", meta)
	o.Set("spec", EncodeMessage(spec))
	if r.Status != nil {
		o.Set("status", EncodeMessage(r.Status))
	}
	return toYAML(o)
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func textObject(m map[string]string) *Object {
	o := &Object{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		o.Set(k, m[k])
	}
	return o
}
