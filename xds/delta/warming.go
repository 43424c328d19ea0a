package delta

import (
	"maps"
	"sync"

	"github.com/meridian-mesh/meridian/mesh"
)

// warming are the names of endpoints that one client's clusters wait for. It outlives the stream: a
// client that was cut off between a cluster and its endpoints comes back with the cluster and with
// the endpoints of old, and nothing in what it says tells that the cluster still waits.
type warming struct {
	mu    sync.Mutex
	names map[string]struct{} // guarded by mu
	// shared are names that a plan adds, which is not changed; guarded by mu.
	shared map[string]struct{}
}

func newWarming() *warming { return &warming{} }

func (d *warming) add(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names == nil {
		d.names = map[string]struct{}{}
	}
	d.names[name] = struct{}{}
}

// share adds the names of a plan until unshare takes them away, or own makes them this client's.
func (d *warming) share(names map[string]struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shared = names
}

// unshare notes that the endpoints of a plan, which are all that it adds, were answered.
func (d *warming) unshare(endpoints []*Resource) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shared = nil
	if len(d.names) == 0 {
		return
	}
	for _, r := range endpoints {
		delete(d.names, r.Name)
	}
}

func (d *warming) own() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names, d.shared = d.all(), nil
}

// all are the names in a map of their own; mu is held.
func (d *warming) all() map[string]struct{} {
	if len(d.names)+len(d.shared) == 0 {
		return nil
	}
	out := make(map[string]struct{}, len(d.names)+len(d.shared))
	maps.Copy(out, d.names)
	maps.Copy(out, d.shared)
	return out
}

// reserve makes room for n names.
func (d *warming) reserve(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names == nil {
		d.names = make(map[string]struct{}, n)
	}
}

func (d *warming) remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.names, name); len(d.names) == 0 {
		d.names = nil // a map does not shrink, and mostly nothing waits
	}
}

func (d *warming) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, own := d.names[name]
	_, shared := d.shared[name]
	return own || shared
}

func (d *warming) any(f func(name string) bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, names := range [...]map[string]struct{}{d.names, d.shared} {
		for name := range names {
			if f(name) {
				return true
			}
		}
	}
	return false
}

func (d *warming) copy() *warming {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &warming{names: d.all()}
}

// warmups are those of all proxies.
type warmups struct {
	mu sync.Mutex
	of map[mesh.Key]*warming // guarded by mu
}

// inherit starts the warming of a new stream with that of the proxy's last one, which may still be running.
func (d *warmups) inherit(proxy mesh.Key) *warming {
	d.mu.Lock()
	defer d.mu.Unlock()
	own := newWarming()
	if last := d.of[proxy]; last != nil {
		own = last.copy()
	}
	d.of[proxy] = own
	return own
}

// forget drops the warming of a stream that has ended, if there is none left or a newer stream has
// inherited it.
func (d *warmups) forget(proxy mesh.Key, own *warming) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of[proxy] == own && !own.any(func(string) bool { return true }) {
		delete(d.of, proxy)
	}
}
