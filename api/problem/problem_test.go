package problem

import (
	"net/http"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestProblemStatusesHaveCodes(t *testing.T) {
	t.Parallel()
	for st, code := range map[int]codes.Code{
		http.StatusBadRequest: codes.InvalidArgument, http.StatusUnauthorized: codes.Unauthenticated,
		http.StatusForbidden: codes.PermissionDenied,
		http.StatusNotFound:  codes.NotFound, http.StatusMethodNotAllowed: codes.FailedPrecondition,
		http.StatusConflict:            codes.FailedPrecondition,
		http.StatusPreconditionFailed:  codes.FailedPrecondition,
		http.StatusServiceUnavailable:  codes.Unavailable,
		http.StatusInternalServerError: codes.Internal, http.StatusGone: codes.OutOfRange,
	} {
		if got := status.Code(New(st, "t", "d").GRPC()); got != code {
			t.Errorf("%d is %s, want %s", st, got, code)
		}
	}
}
