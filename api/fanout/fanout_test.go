package fanout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/api/problem"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

const method = adminv1.StatusService_GetStatus_FullMethodName

// zones answers with its own name; others fail in their way.
func zones() *Zones {
	return &Zones{
		Offline: func(zone string) bool { return zone == "offline" },
		Call: func(ctx context.Context, zone, _ string, _ []byte) ([]byte, error) {
			switch zone {
			case "lost":
				return nil, status.Error(codes.Unavailable, "its connection is lost")
			case "strict":
				return nil, status.Error(codes.NotFound, "there is no such thing")
			case "slow":
				<-ctx.Done()
				return nil, status.FromContextError(ctx.Err()).Err()
			case "junk":
				return []byte{0xff}, nil
			}
			return proto.Marshal(&adminv1.GetStatusResponse{Zone: zone})
		},
	}
}

func TestAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		names := []string{"slow", "east", "lost", "strict", "offline", "north"}
		got := All[adminv1.GetStatusResponse](t.Context(), zones(), names, time.Second, method,
			&adminv1.GetStatusRequest{})
		var said []string
		for _, r := range got {
			if r.Err != nil {
				said = append(said, r.Zone+": "+Reason(r.Err))
				continue
			}
			said = append(said, r.Zone+" is "+r.Value.GetZone())
		}
		want := []string{
			"east is east",
			"lost: its connection is lost",
			"north is north",
			"offline: it is offline",
			"slow: context deadline exceeded",
			"strict: there is no such thing",
		}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s, want the timeout of one zone", took)
		}
	})
}

func TestOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		zone        string
		status      int
		unreachable bool
	}{
		{"east", 0, false},
		{"offline", 0, false}, // asked all the same: it may have just come back
		{"lost", http.StatusBadGateway, true},
		{"strict", http.StatusNotFound, false},
	} {
		resp := &adminv1.GetStatusResponse{}
		err := One(t.Context(), zones(), c.zone, time.Second, method, &adminv1.GetStatusRequest{}, resp)
		if c.status == 0 {
			if err != nil || resp.GetZone() != c.zone {
				t.Errorf("zone %s: %v, %v", c.zone, resp, err)
			}
			continue
		}
		var u *Unreachable
		if errors.As(err, &u) != c.unreachable {
			t.Errorf("zone %s: unreachable %v: %v", c.zone, u, err)
		}
		if !problem.Is(err, c.status) {
			t.Errorf("zone %s: %v, want status %d", c.zone, err, c.status)
		}
	}
	if err := One(t.Context(), zones(), "junk", time.Second, method, &adminv1.GetStatusRequest{},
		&adminv1.GetStatusResponse{}); err == nil {
		t.Error("an answer that cannot be read is an answer")
	}
}

func TestNoWay(t *testing.T) {
	t.Parallel()
	err := One(t.Context(), &Zones{}, "east", time.Second, method, &adminv1.GetStatusRequest{},
		&adminv1.GetStatusResponse{})
	if !problem.Is(err, http.StatusBadGateway) {
		t.Error(err)
	}
}

// TestParallel: no more zones are asked at once than the limit.
func TestParallel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		z := &Zones{Call: func(ctx context.Context, _, _ string, _ []byte) ([]byte, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}}
		var names []string
		for i := range 3 * Parallel {
			names = append(names, fmt.Sprint(i))
		}
		got := All[adminv1.GetStatusResponse](t.Context(), z, names, time.Second, method,
			&adminv1.GetStatusRequest{})
		if len(got) != len(names) {
			t.Errorf("%d results, want %d", len(got), len(names))
		}
		if most.Load() > Parallel {
			t.Errorf("%d zones were asked at once, want at most %d", most.Load(), Parallel)
		}
	})
}
