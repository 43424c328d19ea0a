package validate

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh/codec"
)

const benchDataplane = `{"type":"Dataplane","mesh":"default","name":"web-1","labels":{"app":"web"},` +
	`"networking":{"address":"10.0.0.1",
"inbound":[{"port":8080,"servicePort":80,"name":"http","protocol":"http",` +
	`"tags":{"kuma.io/service":"web","version":"1"}}],
"outbound":[{"port":10001,"backendRef":{"kind":"MeshService","name":"backend","port":3001}}]}}`

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := codec.Decode([]byte(benchDataplane)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	docs, err := codec.Decode([]byte(benchDataplane))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Resource(docs[0].Resource); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeJSON(b *testing.B) {
	docs, err := codec.Decode([]byte(benchDataplane))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := codec.EncodeJSON(docs[0].Resource); err != nil {
			b.Fatal(err)
		}
	}
}
