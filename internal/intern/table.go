package intern

import (
	"hash/maphash"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"weak"
)

var seed = maphash.MakeSeed()

// all is the table of all values that are referenced, by type and hash. Each slot holds
// weak.Pointer[box[T]] of one T.
var all = struct {
	sync.Mutex
	slots map[slot][]any
}{slots: map[slot][]any{}}

type slot struct {
	typ  reflect.Type
	hash uint64
}

type box[T any] struct{ value T }

// lookup finds the box of a value with this hash, or makes it.
func lookup[T any](hash uint64, equal func(T) bool, clone func() T) *box[T] {
	s := slot{reflect.TypeFor[T](), hash}
	all.Lock()
	defer all.Unlock()
	for _, w := range all.slots[s] {
		if b := w.(weak.Pointer[box[T]]).Value(); b != nil && equal(b.value) {
			return b
		}
	}

	b := &box[T]{clone()}
	w := weak.Make(b)
	all.slots[s] = append(all.slots[s], w)
	runtime.AddCleanup(b, func(s slot) { remove(s, w) }, s)
	return b
}

func remove(s slot, w any) {
	all.Lock()
	defer all.Unlock()
	rest := slices.DeleteFunc(all.slots[s], func(o any) bool { return o == w })
	if len(rest) == 0 {
		delete(all.slots, s)
	} else {
		all.slots[s] = rest
	}
}
