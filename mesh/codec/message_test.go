package codec

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func TestMarshalAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		m    proto.Message
		want string
	}{
		{
			name: "a status",
			m: &adminv1.GetStatusResponse{
				Role:     "global",
				Revision: math.MaxUint64,
				Zones: []*adminv1.ZonePeer{{
					Name:  "east <1>",
					State: adminv1.ZoneState_ZONE_STATE_ONLINE,
					Lag:   &adminv1.Lag{Seconds: 0.5},
				}},
			},
			want: `{"role":"global","zone":"","instance":"","version":"","revision":18446744073709551615,` +
				`"globalRevision":0,"zones":[{"name":"east <1>","state":"Online","instance":"",` +
				`"lag":{"revisions":0,"seconds":0.5},"digestsEqual":false,"reason":"","configBytes":0,` +
				`"resumed":false,"version":"","storeId":"","kept":0}],"rejections":[],"duplicates":[]}`,
		},
		{
			name: "a duration",
			m:    &adminv1.WaitRevisionResponse{Took: durationpb.New(1500 * time.Millisecond)},
			want: `{"complete":false,"zones":[],"took":"1.5s"}`,
		},
		{
			name: "a time",
			m:    &adminv1.GlobalPeer{Since: timestamppb.New(time.Unix(0, 5))},
			want: `{"state":"","reason":"","address":"","since":"1970-01-01T00:00:00.000000005Z",` +
				`"configBytes":0,"resumed":false}`,
		},
		{
			name: "a map",
			m: &adminv1.IssueDataplaneTokenRequest{Tags: map[string]*adminv1.Values{
				"b": {Values: []string{"1"}},
				"a": {},
			}},
			want: `{"mesh":"","name":"","tags":{"a":{"values":[]},"b":{"values":["1"]}},"type":"",` +
				`"workload":""}`,
		},
	} {
		got, err := MarshalAnswer(c.m)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if string(got) != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if !json.Valid(got) {
			t.Errorf("%s: %s is not JSON", c.name, got)
		}
	}
	if _, err := MarshalAnswer(&adminv1.Lag{Seconds: math.NaN()}); err == nil {
		t.Error("NaN is accepted")
	}
}

func TestEnumName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value protoreflect.Enum
		want  string
	}{
		{adminv1.ZoneState_ZONE_STATE_DEGRADED, "Degraded"},
		{adminv1.ConnectionState_CONNECTION_STATE_REFUSED, "Refused"},
		{adminv1.SyncStatus_SYNC_STATUS_NOT_SUBSCRIBED, "NotSubscribed"},
		{adminv1.ZoneState_ZONE_STATE_UNSPECIFIED, ""},
		{adminv1.ZoneState(77), "77"},
		{meshv1.Rejection_STAGE_TRANSLATION, "Translation"},
	} {
		if got := EnumName(c.value); got != c.want {
			t.Errorf("%v: got %q, want %q", c.value, got, c.want)
		}
	}
}
