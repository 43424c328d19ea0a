// Package validate has the rules that a resource must satisfy before a control plane admits it.
//
// [Resource] checks what the schema's annotations demand, then names and labels, then the rules of
// the kind, and reports all violations at once. It looks at one resource and nothing else: what
// depends on other resources or on the control plane is for the caller that admits it. It accepts
// resources from any source, not only decoded ones, so no rule may rely on what the codec rejects.
package validate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
)

// Resource checks what the schema and the kind demand of names, labels and spec. err is a
// [*ValidationError] with everything that is wrong; warnings name what works but should be written
// otherwise. It looks at nothing but r: what depends on other resources or on the control plane is
// for who admits it.
func Resource(r *mesh.Resource) (warnings []string, err error) {
	c := &check{
		seen:       map[string]bool{},
		namespaced: r.Key.Namespace != "" && r.Key.Namespace != mesh.SystemNamespace,
	}
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok {
		c.add("type", "%s", mesh.UnknownKind(string(r.Key.Kind)))
		return nil, c.err.Err()
	}
	c.key(info, r)
	prefix := "spec"
	if info.Flat {
		prefix = ""
	}
	if r.Spec == nil {
		c.add("spec", "is required")
		return nil, c.err.Err()
	}
	c.checkSchema(prefix, r.Spec)
	if info.Policy != nil {
		c.values(prefix, r.Spec.ProtoReflect())
		c.policyTarget(info.Policy, r.Spec)
	}
	for _, k := range kinds {
		if k.kind == info.Kind {
			k.rules(c, r.Spec)
		}
	}
	if info.Policy != nil {
		c.entryTargets(info.Policy, r.Spec)
	}
	return c.warnings, c.err.Err()
}

// hooks are what a kind has in this package, each in the file of the kind; the table kinds is generated
// from them.
type hooks struct {
	kind mesh.Kind
	// rules are what the schema and the row of the kind cannot say. A policy's targets are checked already.
	rules func(c *check, spec proto.Message) `kindgen:"spec"`
}

// of adapts the rules of one kind. A spec of another type is a mistake of the caller's, which has
// decoded it for its kind.
func of[S proto.Message](rule func(*check, S)) func(*check, proto.Message) {
	return func(c *check, spec proto.Message) {
		s, ok := spec.(S)
		if !ok {
			c.add("spec", "is a %s, not of the kind of the resource", spec.ProtoReflect().Descriptor().Name())
			return
		}
		rule(c, s)
	}
}

// check collects violations, the first of each field, and warnings.
type check struct {
	err      mesh.ValidationError
	warnings []string
	seen     map[string]bool
	// namespaced resources are no system's: some kinds of targets are not for them.
	namespaced bool
}

func (c *check) add(field, reason string, args ...any) {
	if !c.seen[field] {
		c.seen[field] = true
		c.err.Add(field, reason, args...)
	}
}

func (c *check) warn(field, reason string, args ...any) {
	w := field + ": " + fmt.Sprintf(reason, args...)
	if !slices.Contains(c.warnings, w) {
		c.warnings = append(c.warnings, w)
	}
}

func (c *check) key(info *mesh.KindInfo, r *mesh.Resource) {
	k := r.Key
	limit := cmp.Or(info.NameLimit, 253)
	switch {
	case k.Name == "":
		c.add("name", "is required")
	case info.Kind == mesh.KindVirtualAddress:
	case len(k.Name) > limit:
		c.add("name", "must have at most %d characters, has %d", limit, len(k.Name))
	case !mesh.IsDNSName(k.Name):
		c.add("name", "must be lower-case letters, digits, \"-\" and \".\", and begin and end with a "+
			"letter or digit")
	}
	switch {
	case info.Scope == mesh.ScopeGlobal:
		if k.Mesh != "" {
			c.add("mesh", "%s belongs to no mesh: remove the field", info.Kind)
		}
	case k.Mesh == "":
		c.add("mesh", "is required")
	case len(k.Mesh) > 63 || !meshName.MatchString(k.Mesh):
		c.add("mesh", "is not the name of a mesh: lower-case letters, digits, \"-\", \".\" and "+
			"\"_\", at most 63")
	}
	if k.Namespace != "" && (len(k.Namespace) > 63 || !dnsLabel.MatchString(k.Namespace)) {
		c.add("metadata.namespace", "is not the name of a namespace")
	}
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		value := r.Labels[key]
		switch {
		case !ValidLabelKey(key):
			c.add(mesh.FieldKey("labels", key),
				"is not a key of a label: up to 63 letters, digits, \"-\", \"_\" and \".\", after an "+
					"optional DNS "+
					"name and \"/\"")
		// A display name is a name, which may be longer than other labels.
		case key == mesh.LabelDisplayName && mesh.IsDNSName(value):
		case key == mesh.LabelGraceStarted: // a time, written by the control plane
		case !ValidLabelValue(value):
			c.add(mesh.FieldKey("labels", key),
				"has a value that no label may have: up to 63 letters, digits, \"-\", \"_\" and \".\", "+
					"beginning and ending with a letter or digit")
		case key == mesh.LabelOrigin && value != mesh.OriginGlobal && value != mesh.OriginZone:
			c.add(mesh.FieldKey("labels", key), "must be %s or %s", mesh.OriginGlobal, mesh.OriginZone)
		case key == mesh.LabelMesh && info.Scope == mesh.ScopeMesh && value != k.Mesh:
			c.add(mesh.FieldKey("labels", key), "must be the resource's mesh, %q", k.Mesh)
		case key == mesh.LabelWorkload && !dnsLabel.MatchString(value):
			c.add(mesh.FieldKey("labels", key), "must be lower-case letters, digits and \"-\"")
		}
	}
}

// tags checks tags of an inbound or of a gateway, or a selector by tags.
func (c *check) tags(path string, tags map[string]string, wildcard bool) {
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		switch v := tags[k]; {
		case !tagKey.MatchString(k):
			c.add(mesh.FieldKey(path, k), "is not the name of a tag: letters, digits and . - _ : /")
		case v == "":
			c.add(mesh.FieldKey(path, k), "must not be empty")
		case !tagValue.MatchString(v) && !(wildcard && v == "*"):
			c.add(mesh.FieldKey(path, k), "has a value that no tag may have: letters, digits and . - _ :")
		}
	}
}

func (c *check) labelSelector(path string, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if !ValidLabelKey(k) {
			c.add(mesh.FieldKey(path, k), "is not a key of a label")
		} else if !ValidLabelValue(labels[k]) && !(k == mesh.LabelDisplayName && mesh.IsDNSName(labels[k])) {
			c.add(mesh.FieldKey(path, k), "has a value that no label may have")
		}
	}
}
