package txn_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/storetest"
	"github.com/meridian-mesh/meridian/store/txn"
)

// example is a resource of a kind with every field of the envelope set.
func example(info *mesh.KindInfo) *mesh.Resource {
	r := &mesh.Resource{
		Key:            mesh.Key{Kind: info.Kind, Zone: "east", Namespace: "ns", Name: "n"},
		Labels:         map[string]string{"a": "b", "c": ""},
		Spec:           info.NewSpec(),
		Revision:       7,
		StatusRevision: 8,
		OriginRevision: 9,
		Generation:     3,
		Created:        time.Unix(1, 2000).UTC(),
		Modified:       time.Unix(3, 4000).UTC(),
	}
	if info.Scope == mesh.ScopeMesh {
		r.Key.Mesh = "default"
	}
	if info.NewStatus != nil {
		r.Status = info.NewStatus()
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	c := txn.Codec{Sealer: storetest.PlainSealer{}}
	for _, info := range mesh.Kinds {
		r := example(info)
		row, err := c.EncodeResource("name", r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.DecodeResource("name", row)
		if err != nil {
			t.Fatalf("%s: %v", info.Kind, err)
		}
		if diff := cmp.Diff(r, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", info.Kind, diff)
		}
		// A row that moved to another place is found, and so is every flipped bit.
		if _, err := c.DecodeResource("other", row); err == nil {
			t.Errorf("%s: a row was read under another name", info.Kind)
		}
		for i := range row {
			row[i] ^= 0x10
			if _, err := c.DecodeResource("name", row); err == nil {
				t.Errorf("%s: byte %d flipped and not found", info.Kind, i)
			}
			row[i] ^= 0x10
		}
		if _, err := (txn.Codec{}).EncodeResource("name", r); (err != nil) != info.Secret() {
			t.Errorf("%s without a key: %v", info.Kind, err)
		}
		commit := store.Commit{
			Revision: 7,
			Time:     time.Unix(5, 6000).UTC(),
			Author:   "user:a",
			Changes: []store.Change{
				{
					Type:     store.ChangeSpec,
					Key:      r.Key,
					Resource: r,
					Old:      r,
				}, {
					Type: store.ChangeDelete,
					Key:  r.Key,
					Old:  r,
				}},
		}
		if row, err = c.EncodeCommit("log/7", commit); err != nil {
			t.Fatal(err)
		}
		gotCommit, err := c.DecodeCommit("log/7", row)
		if err != nil {
			t.Fatalf("%s: %v", info.Kind, err)
		}
		if diff := cmp.Diff(commit, gotCommit, protocmp.Transform()); diff != "" {
			t.Errorf("commit of %s (-want +got):\n%s", info.Kind, diff)
		}
	}
}

// FuzzDecode: any bytes give an error or a resource, never a panic.
func FuzzDecode(f *testing.F) {
	c := txn.Codec{Sealer: storetest.PlainSealer{}}
	for _, info := range mesh.Kinds {
		row, err := c.EncodeResource("name", example(info))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(row[4:])
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		row := txn.SealBytes("name", payload)
		if r, err := c.DecodeResource("name", row); err == nil && r.Spec == nil {
			t.Error("a resource without spec")
		}
		_, _ = c.DecodeCommit("name", row)
		_, _ = c.DecodeChange("name", row)
	})
}
