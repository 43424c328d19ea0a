package codec_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
)

func TestDecodeTranslatesOlderKinds(t *testing.T) {
	t.Parallel()

	for _, tc := range []struct{ name, in, want string }{
		{"everybody may talk", `
apiVersion: kuma.io/v1alpha1
kind: TrafficPermission
mesh: default
metadata: {name: all}
spec:
  sources: [{match: {kuma.io/service: '*'}}]
  destinations: [{match: {kuma.io/service: '*'}}]`,

			`MeshTrafficPermission all {from: [{targetRef: {kind: Mesh}, default: {action: Allow}}], ` +
				`targetRef: {kind: Mesh}}`},
		{"a permission hides the wider ones of its destinations", `
type: TrafficPermission
mesh: default
name: some
sources: [{match: {kuma.io/service: web, version: '*'}}, {match: {kuma.io/service: api, team: a}}]
destinations: [{match: {kuma.io/service: backend}}, {match: {kuma.io/service: '*'}}]`,

			`MeshTrafficPermission some {targetRef: {kind: MeshSubset, tags: {kuma.io/service: ` +
				`backend}}, from: [
			  {targetRef: {kind: Mesh}, default: {action: Deny}},
			  {targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}}, default: {action: Allow}},
			  {targetRef: {kind: MeshSubset, tags: {kuma.io/service: api, team: a}}, default: {action: ` +
				`Allow}}]}
			 MeshTrafficPermission some-2 {targetRef: {kind: Mesh}, from: [
			  {targetRef: {kind: Mesh}, default: {action: Deny}},
			  {targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}}, default: {action: Allow}},
			  {targetRef: {kind: MeshSubset, tags: {kuma.io/service: api, team: a}}, default: {action: ` +
				`Allow}}]}`},
		{"retries with the older names", `
type: Retry
mesh: default
name: r
sources: [{match: {kuma.io/service: frontend}}]
destinations: [{match: {kuma.io/service: backend}}, {match: {kuma.io/service: '*'}}]
conf:
  http: {numRetries: 3, timeout: 2s, retriableStatusCodes: [503], retriableMethods: [GET], retryOn: ` +
			`[all_5xx, connect_failure, retriable_status_codes]}
  grpc: {numRetries: 2, retryOn: [cancelled, resource_exhausted]}
  tcp: {maxConnectAttempts: 4}`,
			`MeshRetry r {targetRef: {kind: MeshSubset, tags: {kuma.io/service: frontend}}, to: [
			  {targetRef: {kind: MeshService, name: backend}, default: &d {
			    http: {numRetries: 3, perTryTimeout: 2s, retryOn: ["503", HttpMethodGet, 5xx, ` +
				`ConnectFailure]},
			    grpc: {numRetries: 2, retryOn: [Canceled, ResourceExhausted]}, tcp: {maxConnectAttempt: 4}}},
			  {targetRef: {kind: Mesh}, default: *d}]}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			docs, err := codec.Decode([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if len(docs) == 0 ||
				!strings.Contains(strings.Join(docs[0].Warnings, "\n"),
					"older policy model: it is stored as") {
				t.Fatalf("no warning of the translation: %+v", docs)
			}
			var got []any
			for _, d := range docs {
				if _, err := validate.Resource(d.Resource); err != nil {
					t.Errorf("%s: %v", d.Resource.Key, err)
				}
				text, err := codec.EncodeYAML(d.Resource)
				if err != nil {
					t.Fatal(err)
				}
				var m map[string]any
				if err := yaml.Unmarshal(text, &m); err != nil {
					t.Fatal(err)
				}
				got = append(got, m["type"].(string)+" "+m["name"].(string), m["spec"])
			}
			var want []any
			for _, part := range splitWant(tc.want) {
				head, body, _ := strings.Cut(part, "{")
				var m map[string]any
				if err := yaml.Unmarshal([]byte("{"+strings.ReplaceAll(body, "\t", " ")), &m); err != nil {
					t.Fatal(err)
				}
				want = append(want, strings.TrimSpace(head), m)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// splitWant splits at the lines that begin a resource.
func splitWant(s string) []string {
	var out []string
	for line := range strings.Lines(s) {
		if l := strings.TrimSpace(line); strings.HasPrefix(l, "Mesh") {
			out = append(out, "")
		}
		out[len(out)-1] += line
	}
	return out
}

func TestDecodeRefusesWhatOlderKindsCannotSayHere(t *testing.T) {
	t.Parallel()

	for _, tc := range []struct{ name, in, field string }{
		{"no sources", "type: TrafficPermission\nname: a\ndestinations: [{match: {kuma.io/service: b}}]",
			"sources"},
		{"empty destinations",
			"type: TrafficPermission\nname: a\nsources: [{match: {kuma.io/service: b}}]\ndestinations: []",
			"destinations"},
		{"no tags", "type: TrafficPermission\nname: a\nsources: [{match: {}}]\ndestinations: [{match: " +
			"{kuma.io/service: b}}]", "sources[0].match"},
		{"any value of a tag",
			"type: TrafficPermission\nname: a\nsources: [{match: {kuma.io/service: b}}]\ndestinations: " +
				"[{match: {kuma.io/service: b, version: '*'}}]",
			`destinations[0].match["version"]`},
		{"a stray field", "type: TrafficPermission\nname: a\nsource: []\nsources: [{match: " +
			"{kuma.io/service: " +
			"b}}]\ndestinations: [{match: {kuma.io/service: b}}]", "source"},
		{"a stray field in a match",
			"type: TrafficPermission\nname: a\nsources: [{match: {kuma.io/service: b}, x: " +
				"1}]\ndestinations: " +
				"[{match: {kuma.io/service: b}}]", "sources[0].x"},
		{"a permission with conf",
			"type: TrafficPermission\nname: a\nsources: [{match: {kuma.io/service: b}}]\ndestinations: " +
				"[{match: {kuma.io/service: b}}]\nconf: {}", "conf"},
		{"retries without conf",
			"type: Retry\nname: a\nsources: [{match: {kuma.io/service: b}}]\ndestinations: [{match: " +
				"{kuma.io/service: b}}]", "conf"},
		{"retries of a subset",
			"type: Retry\nname: a\nsources: [{match: {kuma.io/service: b}}]\ndestinations: [{match: " +
				"{kuma.io/service: b, version: v1}}]\nconf: {tcp: {maxConnectAttempts: 2}}",
			`destinations[0].match["version"]`},
		{"retries of an unknown protocol",
			"apiVersion: kuma.io/v1alpha1\nkind: Retry\nmetadata: {name: a}\nspec: {sources: [{match: " +
				"{kuma.io/service: b}}], destinations: [{match: {kuma.io/service: b}}], conf: {udp: {}}}",
			"spec.conf.udp"},
		{"an unknown setting",
			"type: Retry\nname: a\nsources: [{match: {kuma.io/service: b}}]\ndestinations: [{match: " +
				"{kuma.io/service: b}}]\nconf: {http: {retries: 2}}",
			"spec.to[0].default.http.retries"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := codec.Decode([]byte(tc.in))
			var v *mesh.ValidationError
			if !errors.As(err, &v) || v.Violations[0].Field != tc.field {
				t.Errorf("got %v, want a violation of %s", err, tc.field)
			}
		})
	}
}
