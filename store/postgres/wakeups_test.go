package postgres

import (
	"sync"
	"testing"
)

// No notification is lost between one that is held back and a group that has just read.
func TestWakeupsLoseNothing(t *testing.T) {
	t.Parallel()

	for range 2000 {
		var w wakeups
		var given sync.Map
		w.begin()
		var wg sync.WaitGroup
		wg.Go(func() {
			for revision := uint64(1); revision <= 3; revision++ {
				if !w.note(revision) {
					given.Store(revision, true)
				}
			}
		})
		wg.Go(func() {
			given.Store(w.done(), true)
		})
		wg.Wait()
		if _, ok := given.Load(uint64(3)); !ok {
			t.Fatal("the last notification was neither given nor held back for the group")
		}
	}
}
