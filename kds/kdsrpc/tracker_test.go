package kdsrpc

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/kds"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
)

func TestTrackerMapsLocalToGlobalRevisions(t *testing.T) {
	tr := newTracker()
	tr.apply(10, 3, true)
	tr.apply(11, 4, false)
	tr.apply(15, 4, false) // a bookmark: nothing here up to 15
	tr.apply(16, 7, false)
	for _, step := range []struct{ local, answered uint64 }{{0, 0}, {2, 0}, {3, 10}, {4, 15}, {6, 15},
		{7, 16}, {9, 16}} {
		p := tr.progress(&LocalProgress{Answered: step.local})
		if p.GetApplied() != 16 || p.GetAnswered() != step.answered {
			t.Errorf("local %d: applied %d, answered %d, want 16, %d", step.local, p.GetApplied(),
				p.GetAnswered(), step.answered)
		}
	}
	tr.apply(2, 8, true) // another store of global
	if p := tr.progress(&LocalProgress{Answered: 7}); p.GetApplied() != 2 || p.GetAnswered() != 0 {
		t.Errorf("after a new store: %v", p)
	}
}

func TestTrackerIsBoundedAndNeverAhead(t *testing.T) {
	tr := newTracker()
	const last = 3*maxPairs + 1
	for i := uint64(1); i <= last; i++ {
		tr.apply(i, i, false)
	}
	if len(tr.pairs) > maxPairs {
		t.Errorf("%d pairs", len(tr.pairs))
	}
	for _, local := range []uint64{1, 5, last / 2, last - 1} {
		if p := tr.progress(&LocalProgress{Answered: local}); p.GetAnswered() > local {
			t.Errorf("answered %d with local %d", p.GetAnswered(), local)
		}
	}
	if p := tr.progress(&LocalProgress{Answered: last}); p.GetAnswered() != last {
		t.Errorf("answered %d at the end, want %d", p.GetAnswered(), last)
	}
}

func TestRetryWaits(t *testing.T) {
	away := status.Error(codes.Unavailable, "away")
	fenced := &kds.CloseError{Close: &kdsv1.Close{Code: kdsv1.Close_CODE_FENCED, Permanent: true}}
	for _, tt := range []struct {
		name           string
		err            error
		first, longest time.Duration
	}{
		{"global is unreachable", away, 50 * time.Millisecond, 50 * time.Millisecond},
		{"refused for good", fenced, 500 * time.Millisecond, 5 * time.Second},
		{"refused, as a status", statusOf(fenced), 500 * time.Millisecond, 5 * time.Second},
		{"busy", &kds.CloseError{Close: &kdsv1.Close{
			Code:         kdsv1.Close_CODE_BUSY,
			RetryAfterMs: 700,
		}}, 700 * time.Millisecond, 700 * time.Millisecond},
		{"no rights", status.Error(codes.PermissionDenied, "x"), 500 * time.Millisecond, 5 * time.Second},
		{"unknown token", status.Error(codes.Unauthenticated, "x"), 100 * time.Millisecond, 2 * time.Second},
	} {
		if first, longest := retryAfter(tt.err); first != tt.first || longest != tt.longest {
			t.Errorf("%s: %v to %v, want %v to %v", tt.name, first, longest, tt.first, tt.longest)
		}
	}
}

func TestTrackerFindsTheLocalRevision(t *testing.T) {
	tr := newTracker()
	if _, o := tr.local(1); o != store.RevisionAhead {
		t.Errorf("before anything: %d", o)
	}
	tr.apply(10, 3, true)
	tr.remember(10, 3)
	tr.remember(11, 4)
	tr.remember(15, 0) // a bookmark: nothing here up to 15
	tr.remember(18, 7) // three in one
	for _, c := range []struct {
		global, local uint64
		want          store.RevisionState
	}{{9, 0, store.RevisionForgotten}, {10, 0, store.RevisionForgotten}, {11, 4, store.RevisionKnown},
		{12, 0, store.RevisionElsewhere},
		{15, 0, store.RevisionElsewhere}, {16, 7, store.RevisionKnown},
		{18, 7, store.RevisionKnown}, {19, 0, store.RevisionAhead}} {
		if local, o := tr.local(c.global); local != c.local || o != c.want {
			t.Errorf("global %d: local %d, %d, want %d, %d", c.global, local, o, c.local, c.want)
		}
	}
	for i := uint64(20); i < 20+3*maxHistory; i++ {
		tr.remember(i, i)
	}
	if len(tr.history) > maxHistory {
		t.Errorf("%d are remembered", len(tr.history))
	}
	if _, o := tr.local(20); o != store.RevisionForgotten {
		t.Errorf("an old one: %d", o)
	}
	if local, o := tr.local(20 + 3*maxHistory - 1); o != store.RevisionKnown || local != 20+3*maxHistory-1 {
		t.Errorf("the last one: %d, %d", local, o)
	}
	tr.apply(2, 30000, true) // another store of global
	tr.remember(2, 30000)
	if _, o := tr.local(2); o != store.RevisionForgotten {
		t.Errorf("of another store: %d", o)
	}
}
