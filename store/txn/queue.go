package txn

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"github.com/meridian-mesh/meridian/store"
)

// Queue collects concurrent transactions into groups. It has no goroutine: the caller that gets the
// write lock first writes for all that wait, and the others find their result ready.
type Queue struct {
	write   func(take func() []*Request)
	max     int
	closed  chan struct{}
	writing chan struct{} // the write lock: its holder has put a token in

	mu      sync.Mutex
	waiting []*Request
	ended   bool
}

// Request is a transaction that waits; the write function sets Result or Err.
type Request struct {
	Txn    store.Txn
	Result store.Result
	Err    error
	done   chan struct{}
}

// NewQueue makes a queue whose groups have at most limit transactions. write is called by one
// goroutine at a time. It calls take when it is ready to evaluate, which makes a group of all that
// wait then; further calls return the same group. Whatever it waits for before that, such as a lock,
// makes the group larger instead of holding up the next one.
func NewQueue(limit int, write func(take func() []*Request)) *Queue {
	return &Queue{
		write:   write,
		max:     limit,
		closed:  make(chan struct{}),
		writing: make(chan struct{}, 1),
	}
}

// Commit validates a transaction and returns when its group was written. Once a writer has it,
// ctx's end no longer takes it back: write must return in bounded time.
func (q *Queue) Commit(ctx context.Context, t store.Txn) (store.Result, error) {
	if err := q.Check(ctx); err != nil {
		return store.Result{}, err
	}
	if err := Validate(t); err != nil {
		return store.Result{}, err
	}
	r := &Request{Txn: t, done: make(chan struct{})}
	q.mu.Lock()
	if q.ended {
		q.mu.Unlock()
		return store.Result{}, store.ErrClosed
	}
	q.waiting = append(q.waiting, r)
	q.mu.Unlock()

	select {
	case <-r.done:
		return r.Result, r.Err
	case q.writing <- struct{}{}:
		q.lead(r)
		<-q.writing
	case <-q.closed:
		if q.withdraw(r) {
			return store.Result{}, store.ErrClosed
		}
	case <-ctx.Done():
		if q.withdraw(r) {
			return store.Result{}, ctx.Err()
		}
	}
	<-r.done
	return r.Result, r.Err
}

// withdraw takes a request out of the queue; false means that a writer has it already.
func (q *Queue) withdraw(r *Request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, r)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// lead writes groups until own is answered. The caller holds the write lock.
func (q *Queue) lead(own *Request) {
	for {
		select {
		case <-own.done:
			return
		default:
		}
		var group []*Request
		taken := false
		take := func() []*Request {
			if !taken {
				group, taken = q.take(), true
			}
			return group
		}
		q.write(take)
		for _, r := range take() {
			close(r.done)
		}
	}
}

// take makes a group of those that wait, in the order in which they came.
func (q *Queue) take() []*Request {
	q.gather()
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), q.max)
	group := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return group
}

// gather lets writers that were answered by the last group come back before the next one starts:
// without it, one early writer would get a flush of its own, and all the others would wait for that.
// It ends as soon as no new writer comes.
func (q *Queue) gather() {
	for last := -1; ; {
		q.mu.Lock()
		n := len(q.waiting)
		q.mu.Unlock()
		if n == last || n >= q.max {
			return
		}
		last = n
		runtime.Gosched()
	}
}

// Lock takes the write lock, so that no group is written until Unlock.
func (q *Queue) Lock(ctx context.Context) error {
	if err := q.Check(ctx); err != nil {
		return err
	}
	select {
	case q.writing <- struct{}{}:
		return nil
	case <-q.closed:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unlock gives the write lock back.
func (q *Queue) Unlock() { <-q.writing }

// Check is [store.ErrClosed] after Close, else ctx's error.
func (q *Queue) Check(ctx context.Context) error {
	select {
	case <-q.closed:
		return store.ErrClosed
	default:
		return ctx.Err()
	}
}

// Closed is closed by Close.
func (q *Queue) Closed() <-chan struct{} { return q.closed }

// Close refuses further transactions and waits for the group in flight. It says whether this call
// was the first.
func (q *Queue) Close() bool {
	q.mu.Lock()
	first := !q.ended
	q.ended = true
	q.mu.Unlock()
	if first {
		q.writing <- struct{}{} // never given back
		close(q.closed)
	}
	return first
}
