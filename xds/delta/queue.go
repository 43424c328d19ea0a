package delta

import "sync"

// queue is the streams that have something to be pushed, served in the order in which they came
// by a bounded number of workers. A stream stands in it once: what comes while it waits is
// pushed with the rest, in its old place.
//
// There are two lines. A change for a few proxies goes past one for the whole mesh, whose last
// proxy would hardly notice; after urgentRun of the few it is the others' turn, so that none
// waits without limit.
type queue struct {
	push    func(*stream)
	limit   int // workers
	running *sync.WaitGroup

	mu      sync.Mutex
	lines   [numLines]fifo // guarded by mu
	workers int            // guarded by mu
	run     int            // guarded by mu: of urgent streams served in a row
}

// line says in which line of a queue a stream stands.
type line uint8

const (
	lineNone line = iota
	lineUrgent
	lineBulk
	numLines
)

// urgentRun is how many urgent streams are served before one of the others.
const urgentRun = 8

// fifo is a queue whose memory is given back when it is empty.
type fifo struct {
	list []*stream
	head int
}

func (f *fifo) put(st *stream) { f.list = append(f.list, st) }

// take skips streams that have changed to another line.
func (f *fifo) take(own line) *stream {
	for f.head < len(f.list) {
		st := f.list[f.head]
		f.list[f.head] = nil
		f.head++
		if st.line == own {
			return st
		}
	}
	f.list, f.head = nil, 0
	return nil
}

// enqueue puts a stream into the queue, or moves it to the urgent line. It does not block.
func (q *queue) enqueue(st *stream, urgent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := lineBulk
	if urgent {
		own = lineUrgent
	}
	if st.line == lineUrgent || st.line == own {
		return
	}
	st.line = own
	q.lines[own].put(st)
	if q.workers < q.limit {
		q.workers++
		q.running.Go(q.work)
	}
}

// work serves until none waits.
func (q *queue) work() {
	for {
		st := q.next()
		if st == nil {
			return
		}
		q.push(st)
	}
}

// next is the stream to serve now; nil ends the worker.
func (q *queue) next() *stream {
	q.mu.Lock()
	defer q.mu.Unlock()
	order := [...]line{lineUrgent, lineBulk}
	if q.run >= urgentRun {
		order = [...]line{lineBulk, lineUrgent}
	}
	for _, l := range order {
		if st := q.lines[l].take(l); st != nil {
			st.line = lineNone
			if q.run++; l == lineBulk {
				q.run = 0
			}
			return st
		}
	}
	q.workers--
	return nil
}
