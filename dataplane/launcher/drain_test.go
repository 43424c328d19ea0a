package launcher

import (
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestSignalsThatComeTogetherAreOne: two at once, as a supervisor and a process group send them, drain; one
// that comes later ends at once.
func TestSignalsThatComeTogetherAreOne(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		stop := make(chan os.Signal, 2)
		drain, end := make(chan struct{}), make(chan struct{})
		go followStop(t.Context(), stop, drain, end)
		closed := func(c <-chan struct{}) bool {
			synctest.Wait()
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		if closed(drain) || closed(end) {
			t.Fatal("without a signal")
		}
		stop <- syscall.SIGTERM
		stop <- syscall.SIGTERM
		if !closed(drain) || closed(end) {
			t.Fatal("two at once should drain")
		}
		<-time.After(together / 2)
		stop <- syscall.SIGTERM
		if closed(end) {
			t.Fatal("one more within a second should still drain")
		}
		<-time.After(together)
		stop <- syscall.SIGTERM
		if !closed(end) {
			t.Fatal("a later one should end")
		}
	})
}

// TestClosedStopDrains.
func TestClosedStopDrains(t *testing.T) {
	t.Parallel()

	stop := make(chan os.Signal)
	close(stop)
	drain, end := make(chan struct{}), make(chan struct{})
	followStop(t.Context(), stop, drain, end)
	<-drain
	select {
	case <-end:
		t.Error("a closed channel should drain, not end")
	default:
	}
}
