package delta

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// held is a queue whose worker is stopped at the first stream until let goes; then it notes whom it serves.
func held(t *testing.T) (q *queue, served func() []*stream) {
	t.Helper()
	var group sync.WaitGroup
	gate, in := make(chan struct{}), make(chan struct{})
	first := &stream{}
	var got []*stream
	q = &queue{limit: 1, running: &group}
	q.push = func(st *stream) {
		if st == first {
			close(in)
			<-gate
			return
		}
		got = append(got, st)
	}
	q.enqueue(first, false)
	<-in
	return q, func() []*stream {
		close(gate)
		group.Wait()
		return got
	}
}

func streams(n int) []*stream {
	out := make([]*stream, n)
	for i := range out {
		out[i] = &stream{}
	}
	return out
}

// The stream that came first is served first, and once, however often streams come again meanwhile.
func TestQueueIsFair(t *testing.T) {
	q, served := held(t)
	all := streams(1000)
	for i, st := range all {
		q.enqueue(st, false)
		q.enqueue(all[i/2], false)
		q.enqueue(all[0], false)
	}
	if got := served(); !slices.Equal(got, all) {
		t.Errorf("%d were served, not in the order of touch", len(got))
	}
	if q.workers != 0 {
		t.Errorf("%d workers stay", q.workers)
	}
}

// What few wait for goes before what all wait for, even for those who wait already; and lets the
// others through.
func TestQueueLetsFewPass(t *testing.T) {
	q, served := held(t)
	all, few := streams(100), streams(20)
	for _, st := range all {
		q.enqueue(st, false)
	}
	for _, st := range few {
		q.enqueue(st, true)
	}
	q.enqueue(all[50], true)
	q.enqueue(all[50], false)
	got := served()
	at := func(st *stream) int { return slices.Index(got, st) }
	if len(got) != 120 {
		t.Fatalf("%d were served, want each of 120 once", len(got))
	}
	for i, st := range append(few, all[50]) {
		if most := i + i/urgentRun + 1; at(st) > most {
			t.Errorf("number %d of the urgent was served as number %d, want at most %d", i, at(st), most)
		}
	}
	if at(all[0]) > urgentRun || at(all[1]) > 2*urgentRun+1 {
		t.Errorf("those before them waited for %d and %d", at(all[0]), at(all[1]))
	}
	rest := slices.DeleteFunc(got, func(st *stream) bool { return slices.Contains(few, st) || st == all[50] })
	if want := slices.Delete(slices.Clone(all), 50, 51); !slices.Equal(rest, want) {
		t.Error("the others were not served in the order of touch")
	}
}

// No more workers than the limit are busy, a stream is in the hands of one, and all touches are seen.
func TestQueueUnderLoad(t *testing.T) {
	for _, limit := range []int{1, 4} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			var group sync.WaitGroup
			var busy, most atomic.Int32
			all := streams(50)
			wanted, got := make([]atomic.Int64, len(all)), make([]atomic.Int64, len(all))
			q := &queue{limit: limit, running: &group, push: func(st *stream) {
				n := busy.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				i := slices.Index(all, st)
				st.mu.Lock()
				got[i].Store(wanted[i].Load())
				st.mu.Unlock()
				busy.Add(-1)
			}}
			var touching sync.WaitGroup
			for range 4 {
				touching.Go(func() {
					for n := range 2000 {
						i := n % len(all)
						wanted[i].Add(1)
						q.enqueue(all[i], n%7 == 0)
					}
				})
			}
			touching.Wait()
			group.Wait()
			for i := range all {
				if w, g := wanted[i].Load(), got[i].Load(); w != g {
					t.Errorf("stream %d was served up to touch %d of %d", i, g, w)
				}
			}
			if m := most.Load(); int(m) > limit {
				t.Errorf("%d workers at once, want %d", m, limit)
			}
		})
	}
}
