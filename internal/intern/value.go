package intern

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"reflect"
)

// Value is an immutable value that compares by content: two are == if their values are deeply equal.
// The zero Value is none. T is data: numbers, strings, structs with exported fields, and slices,
// arrays, maps and pointers of such; Values and Lists may be in it.
type Value[T any] struct{ box *box[T] }

// Make interns a value. It copies it. It panics if T is not data, a bug that every use shows.
func Make[T any](v T) Value[T] {
	rv := reflect.ValueOf(&v).Elem()
	var h maphash.Hash
	h.SetSeed(seed)
	hash(&h, rv)
	return Value[T]{lookup(h.Sum64(),
		func(have T) bool { return equal(reflect.ValueOf(&have).Elem(), rv) },
		func() T { return clone(rv).Interface().(T) })}
}

// Get is the value; false if there is none. What it points to must not be changed.
func (v Value[T]) Get() (value T, ok bool) {
	if v.box == nil {
		return value, false
	}
	return v.box.value, true
}

// Equal is ==, for those who look for a method.
func (v Value[T]) Equal(o Value[T]) bool { return v == o }

// interned values inside others compare by ==.
type interned interface{ interned() }

func (Value[T]) interned() {}
func (List[E]) interned()  {}

var internedType = reflect.TypeFor[interned]()

// hash writes what equal values have in common.
func hash(h *maphash.Hash, v reflect.Value) {
	if v.Type().Implements(internedType) {
		maphash.WriteComparable(h, v.Interface())
		return
	}
	number := func(n uint64) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], n)
		_, _ = h.Write(b[:])
	}
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			number(1)
		} else {
			number(0)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		number(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		number(v.Uint())
	case reflect.Float32, reflect.Float64:
		number(math.Float64bits(v.Float() + 0)) // one zero
	case reflect.String:
		number(uint64(v.Len()))
		_, _ = h.WriteString(v.String())
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				panic(fmt.Sprintf("a %v cannot be interned: it has a field that is not exported", v.Type()))
			}
			hash(h, v.Field(i))
		}
	case reflect.Slice, reflect.Array:
		number(uint64(v.Len()))
		for i := range v.Len() {
			hash(h, v.Index(i))
		}
	case reflect.Map:
		// The order of a map does not count: the sum of its entries does.
		var sum uint64
		for it := v.MapRange(); it.Next(); {
			var entry maphash.Hash
			entry.SetSeed(seed)
			hash(&entry, it.Key())
			hash(&entry, it.Value())
			sum += entry.Sum64()
		}
		number(uint64(v.Len()))
		number(sum)
	case reflect.Pointer:
		if v.IsNil() {
			number(0)
			return
		}
		number(1)
		hash(h, v.Elem())
	default:
		panic(fmt.Sprintf("a %v cannot be interned", v.Type()))
	}
}

// equal is deep equality, but for interned values, which are equal if they are the same.
func equal(a, b reflect.Value) bool {
	if a.Type().Implements(internedType) || flat(a.Kind()) {
		return a.Interface() == b.Interface()
	}
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			if !equal(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() || a.Kind() == reflect.Slice && a.IsNil() != b.IsNil() {
			return false
		}
		for i := range a.Len() {
			if !equal(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		for it := a.MapRange(); it.Next(); {
			if o := b.MapIndex(it.Key()); !o.IsValid() || !equal(it.Value(), o) {
				return false
			}
		}
		return true
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return equal(a.Elem(), b.Elem())
	}
	return false
}

// flat kinds have all their content in the value.
func flat(k reflect.Kind) bool { return k <= reflect.Float64 || k == reflect.String }

// clone copies all that a value points to.
func clone(v reflect.Value) reflect.Value {
	if v.Type().Implements(internedType) {
		return v
	}
	switch v.Kind() {
	case reflect.Struct, reflect.Array:
		out := reflect.New(v.Type()).Elem()
		if v.Kind() == reflect.Struct {
			for i := range v.NumField() {
				out.Field(i).Set(clone(v.Field(i)))
			}
			return out
		}
		for i := range v.Len() {
			out.Index(i).Set(clone(v.Index(i)))
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(clone(v.Index(i)))
		}
		return out
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for it := v.MapRange(); it.Next(); {
			out.SetMapIndex(clone(it.Key()), clone(it.Value()))
		}
		return out
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out := reflect.New(v.Type().Elem())
		out.Elem().Set(clone(v.Elem()))
		return out
	}
	return v
}
