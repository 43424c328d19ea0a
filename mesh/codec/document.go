package codec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
)

// APIVersion of documents in Kubernetes form.
const APIVersion = "kuma.io/v1alpha1"

// Document is one decoded document of a stream.
type Document struct {
	// Resource has an empty Key.Zone: the caller that admits the resource knows its origin.
	Resource *mesh.Resource
	// Warnings name what was normalised, for the user.
	Warnings []string
	// Index in the stream, from 0; empty documents do not count. A document of an older kind can be
	// several resources, which then share it.
	Index int
	// DerivedName says that the document has no name and got one from its kind and target.
	DerivedName bool
	// MeshGiven says that the document names its mesh; otherwise it is the default mesh.
	MeshGiven bool
}

// DocumentError is what is wrong with one document of a stream. Err is a [*ValidationError] unless
// the text could not be parsed at all.
type DocumentError struct {
	Index int
	// Kind and Name as far as they could be read.
	Kind, Name string
	Err        error
}

func (e *DocumentError) Error() string {
	what := strings.TrimSpace(e.Kind + " " + e.Name)
	if what != "" {
		what = " (" + what + ")"
	}
	return fmt.Sprintf("document %d%s: %v", e.Index+1, what, e.Err)
}

func (e *DocumentError) Unwrap() error { return e.Err }

// budgetOf is how many nodes may be read of an input: each of its own, and a million that aliases repeat.
func budgetOf(data []byte) *int {
	n := maxNodes + len(data)
	return &n
}

// Decode reads a stream of documents: YAML, or JSON values one after the other. Documents are in
// Universal or in Kubernetes form; empty ones are skipped. It returns the good documents and,
// joined, a [*DocumentError] for each of the others. It checks form, not meaning: see [Validate].
func Decode(data []byte) ([]Document, error) {
	nodes, err := parse(data)
	budget := budgetOf(data)
	var docs []Document
	var errs []error
	for i, n := range nodes {
		whole, docErr := decodeAll(n, budget, false)
		if docErr != nil {
			kind, name := peek(n)
			errs = append(errs, &DocumentError{
				Index: i,
				Kind:  kind,
				Name:  name,
				Err:   docErr,
			})
			continue
		}
		for _, doc := range whole {
			doc.Index = i
			docs = append(docs, doc)
		}
	}
	if err != nil {
		errs = append(errs, &DocumentError{Index: len(nodes), Err: err})
	}
	return docs, errors.Join(errs...)
}

// decodeAll reads one document, which is several resources if it is of an older kind or a List.
func decodeAll(n *yaml.Node, budget *int, item bool) ([]Document, error) {
	if items, ok, err := listItems(n, budget, item); ok {
		var out []Document
		for _, item := range items {
			docs, itemErr := decodeAll(item, budget, true)
			if itemErr != nil {
				return nil, itemErr
			}
			out = append(out, docs...)
		}
		return out, err
	}
	nodes, warnings, err := expand(n, budget)
	if err != nil {
		return nil, err
	}
	var out []Document
	for i, n := range nodes {
		doc, err := decodeDocument(n, nil, budget)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			doc.Warnings = append(warnings, doc.Warnings...)
		}
		out = append(out, doc)
	}
	return out, nil
}

// listItems are the items of Kubernetes' List, as kubectl get -o yaml writes it, or of what the API answers
// for a collection, as meridian get -o json does; ok is false for any other document. Lists in lists are not
// unfolded.
func listItems(n *yaml.Node, budget *int, nested bool) (items []*yaml.Node, ok bool, err error) {
	if n.Kind != yaml.MappingNode {
		return nil, false, nil
	}
	d := &decoder{budget: budget}
	top := d.pairs(n, "")
	kind, list := lookup(top, "kind"), lookup(top, "items")
	switch {
	case lookup(top, "type") != nil, kind == nil && list == nil,
		kind != nil && d.resolve(kind).Value != "List":
		return nil, false, nil
	}
	if list != nil {
		list = d.resolve(list)
	}
	if list == nil || list.Kind != yaml.SequenceNode {
		d.add(n, "items", "is required for a List")
		return nil, true, d.err.Err()
	}
	if nested { // an item can hold itself, by an alias
		d.add(n, "items", "must not be within another List")
		return nil, true, d.err.Err()
	}
	for _, item := range list.Content {
		items = append(items, d.resolve(item))
		if *d.budget < 0 {
			d.add(n, "items", "the input is too large")
			break
		}
	}
	if err := d.err.Err(); err != nil {
		return nil, true, err
	}
	return items, true, nil
}

// DecodeJSON reads one document of a known kind, such as the body of a PUT, in JSON or in YAML. The
// error is a [*ValidationError] unless the text could not be parsed at all.
func DecodeJSON(info *mesh.KindInfo, body []byte) (Document, error) {
	nodes, err := parse(body)
	if err != nil {
		return Document{}, err
	}
	if len(nodes) != 1 {
		var v mesh.ValidationError
		v.Add("", "must be one document, not %d", len(nodes))
		return Document{}, v.Err()
	}
	return decodeDocument(nodes[0], info, budgetOf(body))
}

// parse splits a stream into the root nodes of its documents. What was read before a syntax error
// is returned with it.
func parse(data []byte) ([]*yaml.Node, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if beginsAsJSON(data) {
		nodes, err := parseJSON(data)
		if err == nil {
			return nodes, nil
		}
		if firstValue(data) == nil { // a flow mapping of YAML begins so too
			return parseYAML(data)
		}
		// A stream of JSON and YAML documents may be good YAML; if not, the error of the language
		// it began in is reported.
		if mixed, yamlErr := parseYAML(data); yamlErr == nil {
			return mixed, nil
		}
		return nodes, err
	}
	return parseYAML(data)
}

func parseYAML(data []byte) ([]*yaml.Node, error) {
	var nodes []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nodes, fmt.Errorf("not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
			if root := n.Content[0]; root.Kind != yaml.ScalarNode || root.Tag != "!!null" {
				nodes = append(nodes, root)
			}
		}
	}
}

// peek reads kind and name of a document that may be broken, for messages.
func peek(root *yaml.Node) (kind, name string) {
	text := func(n *yaml.Node, keys ...string) string {
		if n == nil || n.Kind != yaml.MappingNode {
			return ""
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if slices.Contains(keys, n.Content[i].Value) && n.Content[i+1].Kind == yaml.ScalarNode {
				return n.Content[i+1].Value
			}
		}
		return ""
	}
	kind = text(root, "type", "kind")
	if name = text(root, "name"); name != "" || root.Kind != yaml.MappingNode {
		return kind, name
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "metadata" {
			name = text(root.Content[i+1], "name")
		}
	}
	return kind, name
}

// header is what surrounds a spec.
type header struct {
	info                  *mesh.KindInfo
	kubernetes            bool
	secretForm            bool // Kubernetes' own v1 Secret
	mesh, name, namespace string
	labels                map[string]string
	derive                bool
}

// Fields of the two forms beside the spec. Values that only the control plane writes are skipped.
var (
	universalFields = []string{"type", "mesh", "name", "labels", "spec", "status", "creationTime",
		"modificationTime", "kri", "snis"}
	kubernetesFields  = []string{"apiVersion", "kind", "metadata", "mesh", "spec", "status"}
	secretFields      = []string{"apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"}
	metadataFields    = []string{"name", "namespace", "labels", "annotations"}
	metadataOfCluster = []string{"uid", "resourceVersion", "generation", "creationTimestamp",
		"deletionTimestamp",
		"deletionGracePeriodSeconds", "managedFields", "ownerReferences", "finalizers", "selfLink",
		"generateName"}
)

// decodeDocument reads one document; want is nil if its kind is its own to say.
func decodeDocument(root *yaml.Node, want *mesh.KindInfo, budget *int) (Document, error) {
	d := &decoder{budget: budget}
	doc := Document{}
	if root = d.resolve(root); root.Kind != yaml.MappingNode {
		d.add(root, "", "a document must be a mapping with type (or apiVersion and kind), name and spec")
		return doc, d.err.Err()
	}
	top := d.pairs(root, "")
	h, ok := d.header(top, want)
	if !ok {
		return doc, d.err.Err()
	}
	r := &mesh.Resource{Spec: h.info.NewSpec(), Labels: h.labels}
	d.spec(root, top, h, r)
	h.finish(d, root, top, r)
	if h.derive {
		if h.name = deriveName(h.info, r.Spec); h.name == "" {
			d.add(root, "name", "is required")
		} else {
			doc.DerivedName = true
			doc.Warnings = append(doc.Warnings,
				fmt.Sprintf("the document has no name; it is called %q after its targets", h.name))
		}
	}
	if sidecarsOnly(r.Spec) {
		doc.Warnings = append(doc.Warnings,
			"spec.targetRef: from is about sidecars, so this is read as kind Mesh with proxyTypes [Sidecar]")
	}
	doc.Warnings = append(doc.Warnings, d.warnings...)
	if err := d.err.Err(); err != nil {
		return Document{}, err
	}
	r.Key = mesh.Key{Kind: h.info.Kind, Name: h.name, Namespace: h.namespace}
	if h.info.Scope == mesh.ScopeMesh {
		r.Key.Mesh = h.mesh
		doc.MeshGiven = h.mesh != ""
		if h.mesh == "" {
			r.Key.Mesh = mesh.DefaultMesh
		}
	}
	if r.Key.Namespace == mesh.SystemNamespace {
		r.Key.Namespace = ""
	}
	doc.Resource = r
	return doc, nil
}

// header reads form and kind; it is not ok if they cannot be told, so that nothing else makes sense.
func (d *decoder) header(top []pair, want *mesh.KindInfo) (header, bool) {
	var h header
	typeNode, kindNode, apiNode := lookup(top, "type"), lookup(top, "kind"), lookup(top, "apiVersion")
	h.kubernetes = apiNode != nil || lookup(top, "metadata") != nil
	kindField, kind := "type", typeNode
	switch {
	case h.kubernetes:
		kindField, kind = "kind", kindNode
		if apiNode == nil {
			d.add(nil, "apiVersion", "is required in a document with metadata: write %s", APIVersion)
		} else if v := d.text(apiNode, "apiVersion"); v == "v1" && kindNode != nil &&
			kindNode.Value == "Secret" {
			h.secretForm = true
		} else if v != APIVersion {
			d.add(apiNode, "apiVersion", "must be %s", APIVersion)
		}
	case typeNode == nil && kindNode != nil:
		kindField, kind = "kind", kindNode
		h.derive = lookup(top, "name") == nil
	case typeNode != nil && kindNode != nil:
		d.add(kindNode, "kind", "give type (Universal) or apiVersion and kind (Kubernetes), not both")
	}
	if kind == nil {
		reason := "is required: the kind of the resource, such as MeshTimeout"
		if want != nil {
			reason = "is required: " + string(want.Kind)
		}
		d.add(nil, kindField, "%s", reason)
		return h, false
	}
	name := d.text(kind, kindField)
	if h.secretForm {
		switch t := typeNode; {
		case t != nil && t.Value == "system.kuma.io/global-secret":
			name = string(mesh.KindGlobalSecret)
		case t == nil || t.Value != "system.kuma.io/secret":
			d.add(t, "type", "must be system.kuma.io/secret or system.kuma.io/global-secret")
			return h, false
		}
	}
	if want != nil && name != string(want.Kind) {
		d.add(kind, kindField, "must be %s, as in the address of the request", want.Kind)
		return h, false
	}
	info, ok := mesh.Lookup(mesh.Kind(name))
	if !ok {
		d.add(kind, kindField, "%s", mesh.UnknownKind(name))
		return h, false
	}
	h.info = info
	return h, true
}

// finish reads what surrounds the spec and refuses what does not belong there.
func (h *header) finish(d *decoder, root *yaml.Node, top []pair, r *mesh.Resource) {
	if n := lookup(top, "mesh"); n != nil && !isNull(n) {
		h.mesh = d.text(n, "mesh")
		if h.info.Scope == mesh.ScopeGlobal && h.mesh != "" {
			d.warn("mesh", "left out, a %s belongs to no mesh", h.info.Kind)
		}
	}
	if h.kubernetes {
		h.metadata(d, root, top)
	} else {
		if n := lookup(top, "name"); n != nil {
			if h.name = d.text(n, "name"); h.name == "" {
				d.add(n, "name", "is required")
			}
		} else if !h.derive {
			d.add(root, "name", "is required")
		}
		if n := lookup(top, "labels"); n != nil {
			h.labels = d.textMap(n, "labels")
		}
		h.namespace = h.labels[mesh.LabelNamespace]
	}
	r.Labels = h.labels
	if label := h.labels[mesh.LabelMesh]; label != "" && h.info.Scope == mesh.ScopeMesh {
		if h.mesh != "" && h.mesh != label {
			d.add(lookup(top, "mesh"), "mesh", "differs from the label %s, which is %q", mesh.LabelMesh,
				label)
		}
		h.mesh = label
	}
}

func (h *header) metadata(d *decoder, root *yaml.Node, top []pair) {
	n := lookup(top, "metadata")
	if n == nil {
		d.add(root, "metadata", "is required")
		return
	}
	if n = d.resolve(n); n.Kind != yaml.MappingNode {
		d.add(n, "metadata", "must be a mapping")
		return
	}
	for _, p := range d.pairs(n, "metadata") {
		path := "metadata." + p.key
		switch p.key {
		case "name":
			h.name = d.text(p.value, path)
		case "namespace":
			h.namespace = d.text(p.value, path)
		case "labels":
			h.labels = d.textMap(p.value, path)
		case "annotations":
		default:
			if !slices.Contains(metadataOfCluster, p.key) {
				d.add(p.node, path, "%s", unknownField(p.key, metadataFields))
			}
		}
	}
	if h.name == "" {
		d.add(n, "metadata.name", "is required")
	}
}

// spec fills r.Spec from where the form keeps it and refuses other fields.
func (d *decoder) spec(root *yaml.Node, top []pair, h header, r *mesh.Resource) {
	if h.secretForm {
		d.secretData(root, top, r)
		return
	}
	known := universalFields
	if h.kubernetes {
		known = kubernetesFields
	}
	if !h.kubernetes {
		known = append(slices.Clone(known), "kind") // header has judged it
	}
	if h.info.Flat && !h.kubernetes {
		known = slices.DeleteFunc(slices.Clone(known), func(f string) bool { return f == "spec" })
		d.flat(top, known, h, r)
		return
	}
	for _, p := range top {
		if slices.Contains(known, p.key) {
			continue
		}
		if fieldByName(r.Spec.ProtoReflect().Descriptor(), p.key) != nil {
			d.add(p.node, p.key, "belongs under spec")
		} else {
			d.add(p.node, p.key, "%s", unknownField(p.key, known))
		}
	}
	n := lookup(top, "spec")
	if n == nil || isNull(n) {
		if h.info.Policy != nil {
			d.add(root, "spec", "is required")
		}
		return // an empty one; the rules of the kind say what is missing
	}
	d.message(n, r.Spec.ProtoReflect(), "spec", 0)
}

// flat reads the fields of a kind that has them beside type and name.
func (d *decoder) flat(top []pair, known []string, h header, r *mesh.Resource) {
	m := r.Spec.ProtoReflect()
	if n := lookup(top, "spec"); n != nil && d.resolve(n).Kind == yaml.MappingNode {
		// As in the Kubernetes form.
		d.warn(
			"spec",
			"read as the fields of %s, which stand at the top of the document beside type and name",
			h.info.Kind,
		)
		d.message(n, m, "spec", 0)
		top = slices.DeleteFunc(slices.Clone(top), func(p pair) bool { return p.key == "spec" })
	}
	for _, p := range top {
		switch fd := fieldByName(m.Descriptor(), p.key); {
		case slices.Contains(known, p.key):
		case fd != nil:
			d.field(p, m, fd, p.key, 0)
		case movedFields[h.info.Kind][p.key] != "":
			d.add(p.node, p.key, "%s", movedFields[h.info.Kind][p.key])
		case p.key == "spec":
			d.add(p.node, "spec", "%s has its fields at the top of the document, beside type and name",
				h.info.Kind)
		default:
			d.add(p.node, p.key, "%s", unknownField(p.key, append(fieldNames(m.Descriptor()), known...)))
		}
	}
}

// secretData reads data.value of Kubernetes' own Secret, or stringData.value, which is the same without
// Base64 and counts if both are there.
func (d *decoder) secretData(root *yaml.Node, top []pair, r *mesh.Resource) {
	for _, p := range top {
		if !slices.Contains(secretFields, p.key) {
			d.add(p.node, p.key, "%s", unknownField(p.key, secretFields))
		}
	}
	if lookup(top, "data") == nil && lookup(top, "stringData") == nil {
		d.add(root, "data", "is required, with the key value")
		return
	}
	m := r.Spec.ProtoReflect()
	fd := m.Descriptor().Fields().ByName("data")
	for _, field := range []string{"data", "stringData"} {
		n := lookup(top, field)
		if n == nil {
			continue
		}
		if n = d.resolve(n); n.Kind != yaml.MappingNode {
			d.add(n, field, "must be a mapping with the key value")
			continue
		}
		for _, p := range d.pairs(n, field) {
			switch {
			case p.key != "value":
				d.add(p.node, field+"."+p.key, "%s", unknownField(p.key, []string{"value"}))
			case field == "data":
				d.field(p, m, fd, "data.value", 0)
			default:
				m.Set(fd, protoreflect.ValueOfBytes([]byte(d.text(p.value, "stringData.value"))))
			}
		}
	}
}
