package ir

import (
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"weak"
)

// Shared is an immutable value that compares by content: two are == if their values are equal. The
// zero Shared is no value. T is data that survives JSON: exported fields, no cycles, no maps with
// other keys than strings.
type Shared[T any] struct{ box *box[T] }

type box[T any] struct{ value T }

// boxes are all that somebody has, by type and content: what package unique does for types that are
// comparable.
var boxes sync.Map // boxKey to weak.Pointer[box[T]]

type boxKey struct {
	typ  reflect.Type
	text string
}

// Share makes a value comparable. It copies the value.
func Share[T any](v T) Shared[T] {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("a %T cannot be shared: %v", v,
			err)) // a T that is no data: a bug that every use shows
	}
	k := boxKey{reflect.TypeFor[T](), string(text)}
	var fresh *box[T]
	for {
		if have, ok := boxes.Load(k); ok {
			if b := have.(weak.Pointer[box[T]]).Value(); b != nil {
				return Shared[T]{b}
			}
			boxes.CompareAndDelete(k, have)
		}
		if fresh == nil {
			fresh = &box[T]{}
			if err := json.Unmarshal(text, &fresh.value); err != nil {
				panic(fmt.Sprintf("a %T cannot be shared: %v", v, err))
			}
		}
		w := weak.Make(fresh)
		if _, taken := boxes.LoadOrStore(k, w); !taken {
			runtime.AddCleanup(fresh, func(k boxKey) { boxes.CompareAndDelete(k, w) }, k)
			return Shared[T]{fresh}
		}
	}
}

// Equal is ==, for those who look for a method.
func (s Shared[T]) Equal(o Shared[T]) bool { return s == o }

// Get is the value; false if there is none. What it points to must not be changed.
func (s Shared[T]) Get() (v T, ok bool) {
	if s.box == nil {
		return v, false
	}
	return s.box.value, true
}
