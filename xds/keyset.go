package xds

import (
	"maps"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
)

// keySet is the keys of one range, in order. Some ranges are long and hardly ever read, all
// Dataplanes of a zone for one: keeping such a list in order at each change would cost in proportion
// to the mesh. Its changes wait until it is read, or they are many.
type keySet struct {
	keys []mesh.Key
	// waiting says of keys whether they came (or went) since.
	waiting map[mesh.Key]bool
}

// longKeySet is from how many keys on changes wait.
const longKeySet = 256

func (s *keySet) add(k mesh.Key) { s.change(k, true) }

func (s *keySet) remove(k mesh.Key) { s.change(k, false) }

func (s *keySet) change(k mesh.Key, there bool) {
	if len(s.keys) >= longKeySet {
		if s.waiting == nil {
			s.waiting = map[mesh.Key]bool{}
		}
		if s.waiting[k] = there; len(s.waiting) > len(s.keys)/4 {
			s.merge()
		}
		return
	}
	at, found := slices.BinarySearchFunc(s.keys, k, mesh.Key.Compare)
	switch {
	case there && !found:
		s.keys = slices.Insert(s.keys, at, k)
	case !there && found:
		s.keys = slices.Delete(s.keys, at, at+1)
	}
}

// merge puts what waits into the list.
func (s *keySet) merge() {
	if len(s.waiting) == 0 {
		return
	}
	changed := slices.SortedFunc(maps.Keys(s.waiting), mesh.Key.Compare)
	out := make([]mesh.Key, 0, len(s.keys)+len(changed))
	for _, k := range s.keys {
		for len(changed) > 0 && changed[0].Compare(k) < 0 {
			if s.waiting[changed[0]] {
				out = append(out, changed[0])
			}
			changed = changed[1:]
		}
		if len(changed) > 0 && changed[0] == k {
			if !s.waiting[k] {
				changed = changed[1:]
				continue
			}
			changed = changed[1:]
		}
		out = append(out, k)
	}
	for _, k := range changed {
		if s.waiting[k] {
			out = append(out, k)
		}
	}
	s.keys, s.waiting = out, nil
}

// list is all keys, in order.
func (s *keySet) list() []mesh.Key {
	if s == nil {
		return nil
	}
	s.merge()
	return s.keys
}
