package adminjson

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

func TestMarshal(t *testing.T) {
	t.Parallel()
	got, err := Marshal(&adminv1.GetStatusResponse{
		Role: "global", Revision: math.MaxUint64,
		Zones: []*adminv1.ZonePeer{{Name: "east <1>", Lag: &adminv1.Lag{Seconds: 0.5}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"role":"global","zone":"","instance":"","version":"","revision":18446744073709551615,"globalRevision":0,"zones":[{"name":"east <1>",` +

		`"state":"","instance":"","lag":{"revisions":0,"seconds":0.5},"digestsEqual":false,"reason":"","configBytes":0,"resumed":false,"version":""}],` +
		`"refusals":[]}`
	if string(got) != want || !json.Valid(got) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	got, err = Marshal(&adminv1.WaitRevisionResponse{Took: durationpb.New(1500 * time.Millisecond)})
	if want := `{"complete":false,"zones":[],"took":"1.5s"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	got, err = Marshal(&adminv1.GlobalPeer{Since: timestamppb.New(time.Unix(0, 5))})
	if want := `{"state":"","reason":"","address":"","since":"1970-01-01T00:00:00.000000005Z","configBytes":0,"resumed":false}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	got, err = Marshal(
		&adminv1.IssueDataplaneTokenRequest{Tags: map[string]*adminv1.Values{"b": {Values: []string{"1"}},
			"a": {}}})
	if want := `{"mesh":"","name":"","tags":{"a":{"values":[]},"b":{"values":["1"]}},"type":"","workload":""}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if _, err := Marshal(&adminv1.Lag{Seconds: math.NaN()}); err == nil {
		t.Error("NaN is accepted")
	}
	if _, err := Marshal(&kdsv1.ProxyRefusal{}); err != nil {
		t.Error(err)
	}
}
