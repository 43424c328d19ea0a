package txn_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Transactions that wait while a group is written are written together, within the bound, and each
// is answered once.
func TestQueueGroups(t *testing.T) {
	var groups []int
	entered, proceed := make(chan struct{}), make(chan struct{})
	revision := uint64(0)
	q := txn.NewQueue(4, func(take func() []*txn.Request) {
		group := take()
		groups = append(groups, len(group))
		entered <- struct{}{}
		<-proceed
		for _, r := range group {
			revision++
			r.Result = store.Result{Revision: revision}
		}
	})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]bool{}
	send := func() {
		wg.Go(func() {
			res, err := q.Commit(context.Background(), store.Txn{})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[res.Revision] {
				t.Errorf("%+v, %v", res, err)
			}
			seen[res.Revision] = true
		})
	}
	send()
	<-entered
	// One whose context ends while it waits is not written.
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan error)
	go func() { _, err := q.Commit(ctx, store.Txn{}); gone <- err }()
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("Commit = %v", err)
	}
	for range 10 {
		send()
	}
	proceed <- struct{}{}
	go func() {
		for range entered {
			proceed <- struct{}{}
		}
	}()
	wg.Wait()
	close(entered)
	total := 0
	for _, n := range groups {
		total += n
		if n > 4 {
			t.Errorf("a group of %d", n)
		}
	}
	if total != 11 {
		t.Errorf("%d written in groups %v, want 11", total, groups)
	}
}

// Close waits for the group in flight and refuses the rest.
func TestQueueClose(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	q := txn.NewQueue(1, func(take func() []*txn.Request) {
		take()
		entered <- struct{}{}
		<-proceed
	})
	results := make(chan error)
	for range 3 {
		go func() { _, err := q.Commit(context.Background(), store.Txn{}); results <- err }()
	}
	<-entered
	closed := make(chan bool)
	go func() { closed <- q.Close() }()
	go func() {
		for range entered {
			proceed <- struct{}{}
		}
	}()
	proceed <- struct{}{}
	if !<-closed {
		t.Error("the first Close says it was not")
	}
	got := map[string]int{}
	for range 3 {
		got[fmt.Sprint(<-results)]++
	}
	if got["<nil>"] == 0 || got["<nil>"]+got[store.ErrClosed.Error()] != 3 {
		t.Errorf("answers: %v", got)
	}
	close(entered)
	if q.Close() {
		t.Error("the second Close says it was the first")
	}
	if _, err := q.Commit(context.Background(), store.Txn{}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Commit after Close = %v", err)
	}
}
