package universal

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/xds/delta"
)

// Of two streams of one name from two hosts with two addresses the second is refused while the first is
// there; one that merely comes from elsewhere, or whose address changed, is the same proxy.
func TestDuplicateStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		join := func(peer, address string) (delta.Member, error) {
			return w.reg.Join(context.Background(), delta.Join{
				NodeID:   "default.web-1",
				Token:    "good",
				Resource: strings.Replace(document("web-1"), "10.0.0.1", address, 1),
				Peer:     peer,
			})
		}
		first, err := join("192.0.2.1:5000", "10.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_, err = join("192.0.2.2:6000", "10.0.0.2")
			if status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), "192.0.2.1:5000") ||
				!strings.Contains(err.Error(), "192.0.2.2:6000") {
				t.Fatalf("the second: %v", err)
			}
		}
		if d := w.reg.Duplicates(); len(d) != 1 || d[0].Proxy != key("web-1") {
			t.Errorf("duplicates are %v", d)
		}
		time.Sleep(2 * duplicateShown)
		if d := w.reg.Duplicates(); len(d) != 0 {
			t.Errorf("duplicates of long ago are %v", d)
		}
		for _, same := range [][2]string{{"192.0.2.1:5001", "10.0.0.9"}, {"192.0.2.3:1", "10.0.0.9"}} {
			next, err := join(same[0], same[1])
			if err != nil {
				t.Fatalf("%v: %v", same, err)
			}
			select {
			case <-first.Superseded():
			default:
				t.Errorf("%v: the former stream is still the proxy's", same)
			}
			first.Leave(nil)
			first = next
		}
		first.Leave(nil)
		if _, err := join("192.0.2.2:6000", "10.0.0.2"); err != nil {
			t.Errorf("after the first has gone: %v", err)
		}
	})
}
