package codec

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh/validate"
)

// FuzzDecode: what is decoded and valid is written as a document that decodes to the same.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"type":"Dataplane","name":"a","networking":{"address":"x","inbound":[{"port":1}]}}`))
	f.Add([]byte("a: &a {<<: [*a, *a]}\ntype: Zone\nname: x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, _ := Decode(data)
		for _, d := range docs {
			if _, err := validate.Resource(d.Resource); err != nil {
				continue
			}
			text, err := EncodeYAML(d.Resource)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Decode(text)
			if err != nil || len(again) != 1 {
				t.Fatalf("%s\ndoes not decode: %v", text, err)
			}
			if diff := cmp.Diff(d.Resource.Spec, again[0].Resource.Spec, protocmp.Transform()); diff != "" {
				t.Fatalf("%s\n(-first +second)\n%s", text, diff)
			}
		}
	})
}
