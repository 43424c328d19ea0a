package codec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
)

// TestDecodeLists: what kubectl get -o yaml writes is as good as its items.
func TestDecodeLists(t *testing.T) {
	t.Parallel()

	item := "{apiVersion: kuma.io/v1alpha1, kind: Zone, metadata: {name: NAME}, spec: {}}"
	east, west := strings.ReplaceAll(item, "NAME", "east"), strings.ReplaceAll(item, "NAME", "west")
	docs, err := Decode(
		[]byte("apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems: [" + east + ", " +
			west + "]\n"),
	)
	if err != nil || len(docs) != 2 || docs[0].Resource.Key.Name != "east" ||
		docs[1].Resource.Key.Name != "west" {
		t.Errorf("%+v, %v", docs, err)
	}
	if docs, err = Decode([]byte("apiVersion: v1\nkind: List\nitems: []\n")); len(docs) != 0 || err != nil {
		t.Errorf("empty: %+v, %v", docs, err)
	}
	const nested = "items: must not be within another List"
	for text, want := range map[string]string{
		"kind: List\napiVersion: v1\n": "items: is required for a List",

		"kind: List\napiVersion: v1\nitems: {}\n": "items: is required " +
			"for a List",
		"kind: List\napiVersion: v1\nitems: [{kind: List, items: []}]\n":        nested,
		"items: [&a {items: [*a]}]\n":                                           nested,
		"items: [{items: [{items: []}]}]\n":                                     nested,
		"kind: List\napiVersion: v1\nitems: [" + east + ", {kind: Zone, a: 1}]": "a: unknown field",
		"kind: List\napiVersion: v1\nitems: [5]\n": "a document must " +
			"be a mapping",
	} {
		if docs, err := Decode(
			[]byte(text),
		); err == nil || !strings.Contains(err.Error(), want) ||
			len(docs) > 0 {
			t.Errorf("%s: %+v, %v", text, docs, err)
		}
	}
}

// TestIntegersAreDecimal: YAML 1.1 and 1.2 read 010 differently.
func TestIntegersAreDecimal(t *testing.T) {
	t.Parallel()

	for text, ok := range map[string]bool{"10": true, "0": true, "010": false, "00": false, "0x10": false,
		"0o10": false, "1_000": false} {
		doc := policyDoc(
			mesh.KindMeshRetry,
			"to: [{targetRef: {kind: Mesh}, default: {http: {numRetries: "+text+"}}}]",
		)
		if _, err := Decode([]byte(doc)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestLenientForms: what documents of guides and clusters write besides is read, with a warning where it is
// not the form here.
func TestLenientForms(t *testing.T) {
	t.Parallel()

	for _, tc := range []struct {
		name, text string
		// want is a part of the document as it is stored.
		want     string
		warnings []string
	}{
		{"Kubernetes without spec", "apiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {name: a}",
			`"name":"a"`, nil},
		{"Universal with spec", "type: Mesh\nname: a\nspec: {networking: {outbound: {passthrough: false}}}",
			`"passthrough":false`,
			[]string{"spec: read as the fields of Mesh, which stand at the top of the document " +
				"beside type and name"}},
		{"mesh of a Mesh", "type: Mesh\nname: a\nmesh: a", `"name":"a"`,
			[]string{"mesh: left out, a Mesh belongs to no mesh"}},
		{"mesh of a HostnameGenerator",
			"type: HostnameGenerator\nmesh: default\nname: a\nspec: {template: a, selector: " +
				"{meshService: {}}}", `"name":"a"`,
			[]string{"mesh: left out, a HostnameGenerator belongs to no mesh"}},
		{"stringData", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ntype: " +
			"system.kuma.io/secret\nstringData: " +
			"{value: text}", `"data":"dGV4dA=="`, nil},
		{"stringData over data",
			"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ntype: system.kuma.io/secret\ndata: " +
				"{value: b3RoZXI=}\nstringData: {value: text}", `"data":"dGV4dA=="`, nil},
		{"a note", policyDoc(mesh.KindMeshTimeout,
			"to: [{targetRef: {kind: MeshService, name: b, _port: 3001}, default: "+
				"{idleTimeout: 1s}}]"), `"name":"b"`,
			[]string{"spec.to[0].targetRef._port: left out, it is a note of the page that the " +
				"document is from"}},
		{"responseRateLimit",
			policyDoc(mesh.KindMeshFaultInjection, "targetRef: {kind: Dataplane}, rules: [{default: "+
				"{http: [{responseRateLimit: {limit: 1Mbps, percentage: 1}}]}}]"),
			`"responseBandwidth":{"limit":"1Mbps"`,
			[]string{"spec.rules[0].default.http[0].responseRateLimit: read as responseBandwidth, " +
				"which is the " +
				"field's name"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			docs, err := Decode([]byte(tc.text))
			if err != nil || len(docs) != 1 {
				t.Fatalf("%d documents, %v", len(docs), err)
			}
			body, err := EncodeJSON(docs[0].Resource)
			if err != nil || !strings.Contains(string(body), tc.want) {
				t.Errorf("%s, %v", body, err)
			}
			if diff := cmp.Diff(tc.warnings, docs[0].Warnings); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	for kind, want := range map[string]string{
		"MeshOPA":     "MeshOPA is a kind of Kong Mesh, not supported yet",
		"AccessRole":  "AccessRole is a kind of Kong Mesh, not supported yet",
		"HTTPRoute":   "HTTPRoute is a kind of the Gateway API, not supported yet",
		"Deployment":  "Deployment is a kind of Kubernetes, not supported yet",
		"MeshMetric":  "MeshMetric is not supported yet",
		"MeshTimeuot": `unknown kind "MeshTimeuot": did you mean MeshTimeout?`,
	} {
		_, err := Decode([]byte("apiVersion: x/v1\nkind: " + kind + "\nmetadata: {name: a}\nspec: {}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
