package codec

import (
	"strings"
	"testing"

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
	for text, want := range map[string]string{
		"kind: List\napiVersion: v1\n": "items: is required for a List",

		"kind: List\napiVersion: v1\nitems: {}\n": "items: is required for a List",
		"kind: List\napiVersion: v1\nitems: [{kind: List, items: []}]\n": "items[0]: must not be a " +
			"List itself",
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
