package intern

import (
	"hash/maphash"
	"slices"
)

// List is an immutable list of comparable elements. Two are == if their elements are, in the same
// order. The zero List is the empty one.
type List[E comparable] struct{ box *box[[]E] }

// ListOf interns a list. It copies it.
func ListOf[E comparable](list []E) List[E] {
	if len(list) == 0 {
		return List[E]{}
	}
	var h maphash.Hash
	h.SetSeed(seed)
	for _, e := range list {
		maphash.WriteComparable(&h, e)
	}
	return List[E]{lookup(h.Sum64(),
		func(have []E) bool { return slices.Equal(have, list) },
		func() []E { return slices.Clip(slices.Clone(list)) })}
}

// Slice is the elements; do not change it.
func (l List[E]) Slice() []E {
	if l.box == nil {
		return nil
	}
	return l.box.value
}

// Len is the number of elements.
func (l List[E]) Len() int { return len(l.Slice()) }
