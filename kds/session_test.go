package kds_test

import (
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

func TestFenceLetsTheNewestEpochHoldAName(t *testing.T) {
	now := time.Unix(0, 0)
	var f kds.Fence
	for i, step := range []struct {
		instance   string
		epoch      uint64
		gone       bool
		superseded bool
		refusedBy  string
	}{
		{"a", 10, true, false, ""},
		{"a", 10, false, false, ""},  // another stream of the same process
		{"b", 9, false, false, "a"},  // started earlier
		{"b", 10, false, false, "a"}, // as new, but another
		{"b", 11, false, true, ""},   // newer
		{"a", 10, false, false, "b"}, // the older comes back
		{"a", 10, true, true, ""},    // the newer is gone for good
		{"b", 11, false, true, ""},   // and back
	} {
		superseded, refused := f.Admit("east", step.instance, step.epoch, "", step.gone, now)
		if superseded != step.superseded || (refused != nil) != (step.refusedBy != "") {
			t.Fatalf("step %d: superseded %v, refused %v", i, superseded, refused)
		}
		if refused != nil {
			r := refused.Close
			if r.GetCode() != kdsv1.Close_CODE_FENCED || !r.GetPermanent() ||
				!strings.Contains(r.GetReason(), "instance "+step.refusedBy) {
				t.Errorf("step %d: %v", i, r)
			}
		}
	}
	if _, refused := f.Admit("west", "c", 1, "", true, now); refused != nil {
		t.Errorf("another name: %v", refused)
	}
}

// A second process with another store is refused while the holder's lease runs, however new it is.
func TestFenceKeepsTheHolderOfAStore(t *testing.T) {
	now := time.Unix(0, 0)
	var f kds.Fence
	for i, step := range []struct {
		instance string
		epoch    uint64
		store    string
		gone     bool
		refused  bool
	}{
		{"a", 10, "one", true, false},
		{"b", 11, "two", false, true},
		{"a", 12, "one", false, false},    // restarted
		{"c", 13, "one-9f", false, false}, // a replica, after the store went back
		{"b", 14, "two", false, true},     // still
		{"d", 15, "", false, false},       // a former version, which does not say
		{"b", 16, "two", false, false},    // nothing to compare with
		{"c", 17, "one", true, false},     // after the lease
		{"c", 17, "one", false, false},    // another stream
		{"b", 18, "two-11", false, true},  // as an epoch of another store
	} {
		_, refused := f.Admit("east", step.instance, step.epoch, step.store, step.gone, now)
		if (refused != nil) != step.refused {
			t.Fatalf("step %d: refused %v", i, refused)
		}
		if refused != nil && (refused.Close.GetPermanent() ||
			!strings.Contains(refused.Error(), "another store")) {
			t.Errorf("step %d: %v", i, refused)
		}
	}
}

func TestCheckHello(t *testing.T) {
	good := func() *kdsv1.Hello { return &kdsv1.Hello{Zone: "east", Epoch: 1, Capability: kds.Capability} }
	if refused := kds.CheckHello(good(), "east"); refused != nil {
		t.Errorf("good: %v", refused)
	}
	for code, edit := range map[kdsv1.Close_Code]func(*kdsv1.Hello){
		kdsv1.Close_CODE_ZONE:     func(h *kdsv1.Hello) { h.Zone = "west" },
		kdsv1.Close_CODE_VERSION:  func(h *kdsv1.Hello) { h.Capability = 0 },
		kdsv1.Close_CODE_PROTOCOL: func(h *kdsv1.Hello) { h.Epoch = 0 },
	} {
		h := good()
		edit(h)
		if refused := kds.CheckHello(h, "east"); refused == nil || refused.Close.GetCode() != code {
			t.Errorf("%s: %v", code, refused)
		}
	}
	h := good()
	h.Capability = kds.Capability + 5
	if refused := kds.CheckHello(h, "east"); refused != nil {
		t.Errorf("a newer capability must be admitted: %v", refused)
	}
}

func TestAgreeNamesKindsThatDiffer(t *testing.T) {
	ours := kds.Schemas()
	if a := kds.Agree(ours, kds.Schemas()); len(a.Degraded) != 0 || a.Schema == "" {
		t.Errorf("%+v", a)
	}
	theirs := kds.Schemas()
	theirs[0].Digest = []byte("x")
	theirs = append(theirs[:len(theirs)-1], &kdsv1.KindSchema{Kind: "New", Digest: []byte("y")})
	a := kds.Agree(ours, theirs)
	if len(a.Degraded) != 3 || !a.Withheld(mesh.Kind(ours[0].GetKind())) ||
		a.Withheld(mesh.Kind(ours[1].GetKind())) {
		t.Errorf("%+v", a)
	}
	if a.Schema == kds.Agree(ours, ours).Schema {
		t.Error("another agreement has the same fingerprint")
	}
}
