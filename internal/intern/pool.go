package intern

import (
	"runtime"
	"sync"
	"weak"
)

// Pool holds one object for each key, as long as the object is referenced. The zero Pool is empty.
// It is safe for concurrent use.
type Pool[K comparable, V any] struct {
	mu    sync.Mutex
	items map[K]weak.Pointer[V] // guarded by mu
}

// Get is the object of the key: the one that is there, or v, which is there from now on. Objects
// with equal keys must be interchangeable.
func (p *Pool[K, V]) Get(k K, v *V) *V {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have := p.items[k].Value(); have != nil {
		return have
	}
	if p.items == nil {
		p.items = map[K]weak.Pointer[V]{}
	}
	w := weak.Make(v)
	p.items[k] = w
	runtime.AddCleanup(v, func(k K) { p.remove(k, w) }, k)
	return v
}

func (p *Pool[K, V]) remove(k K, w weak.Pointer[V]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.items[k] == w {
		delete(p.items, k)
	}
}

// Len is the number of objects that are referenced, and of those that were until just now.
func (p *Pool[K, V]) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.items)
}
