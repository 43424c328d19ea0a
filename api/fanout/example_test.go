package fanout_test

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/api/fanout"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// Two zones are asked; one has lost its connection and is missing from the answer.
func ExampleAll() {
	zones := &fanout.Zones{Call: func(_ context.Context, zone, _ string, _ []byte) ([]byte, error) {
		if zone == "west" {
			return nil, status.Error(codes.Unavailable, "its connection is lost")
		}
		return proto.Marshal(&adminv1.GetStatusResponse{Revision: 7})
	}}
	for _, r := range fanout.All[adminv1.GetStatusResponse](context.Background(), zones,
		[]string{"east", "west"}, time.Second, adminv1.StatusService_GetStatus_FullMethodName,
		&adminv1.GetStatusRequest{}) {
		if r.Err != nil {
			fmt.Println(r.Zone, "is left out:", fanout.Reason(r.Err))
			continue
		}
		fmt.Println(r.Zone, "is at revision", r.Value.GetRevision())
	}
	// Output:
	// east is at revision 7
	// west is left out: its connection is lost
}
