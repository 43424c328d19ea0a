package intern

import (
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

type data struct {
	Names  []string
	Codes  []uint32
	Wait   time.Duration
	Labels map[string]string
	Next   *data
	Inner  Value[[]string]
	Share  float64
}

func sample() data {
	return data{
		Names:  []string{"5xx"},
		Codes:  []uint32{503},
		Wait:   time.Second,
		Labels: map[string]string{"a": "1", "b": "2"},
		Next:   &data{Names: []string{"x"}},
		Inner:  Make([]string{"in"}),
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	one := Make(sample())
	if one != Make(sample()) {
		t.Error("equal values differ")
	}
	if one == (Value[data]{}) {
		t.Error("a value is none")
	}
	if v, ok := (Value[data]{}).Get(); ok {
		t.Errorf("the zero Value has %v", v)
	}
	for name, change := range map[string]func(*data){
		"element":     func(d *data) { d.Names[0] = "4xx" },
		"length":      func(d *data) { d.Codes = append(d.Codes, 1) },
		"nil":         func(d *data) { d.Next.Names = nil },
		"number":      func(d *data) { d.Wait++ },
		"map value":   func(d *data) { d.Labels["a"] = "2" },
		"map key":     func(d *data) { delete(d.Labels, "a"); d.Labels["c"] = "1" },
		"pointer":     func(d *data) { d.Next = nil },
		"behind it":   func(d *data) { d.Next.Wait = 1 },
		"interned":    func(d *data) { d.Inner = Make([]string{"other"}) },
		"no interned": func(d *data) { d.Inner = Value[[]string]{} },
	} {
		d := sample()
		change(&d)
		if one == Make(d) {
			t.Errorf("with another %s the value is the same", name)
		}
	}
}

// TestTypes: the same content of another type is another value.
func TestTypes(t *testing.T) {
	t.Parallel()
	type names []string
	if v, _ := Make(names{"x"}).Get(); len(v) != 1 {
		t.Error("no names")
	}
	if v, _ := Make([]string{"x"}).Get(); len(v) != 1 {
		t.Error("no strings")
	}
}

// TestCopied: what is interned does not change with what it was made of.
func TestCopied(t *testing.T) {
	t.Parallel()
	d := sample()
	v := Make(d)
	d.Names[0], d.Labels["a"], d.Next.Names[0] = "changed", "changed", "changed"
	if v != Make(sample()) {
		t.Error("the value changed")
	}

	keys := []string{"a", "b"}
	l := ListOf(keys)
	keys[0] = "changed"
	if l.Slice()[0] != "a" {
		t.Error("the list changed")
	}
}

// TestSeparators: no content is mistaken for the end of an element.
func TestSeparators(t *testing.T) {
	t.Parallel()
	lists := [][]string{
		{"a\nb"},
		{"a", "b"},
		{"a\tb\n"},
		{"", "a\x00b"},
		{"a\x00", "b"},
		{""},
		nil,
	}
	seen := map[List[string]][]string{}
	values := map[Value[[]string]]bool{}
	for _, list := range lists {
		l := ListOf(list)
		if was, twice := seen[l]; twice {
			t.Errorf("%q is %q", list, was)
		}
		seen[l] = list
		values[Make(list)] = true
		if !slices.Equal(l.Slice(), list) {
			t.Errorf("%q came back as %q", list, l.Slice())
		}
	}
	if len(values) != len(lists) {
		t.Errorf("%d of %d values are distinct", len(values), len(lists))
	}
}

// TestNotData: what cannot be compared by content is refused at once.
func TestNotData(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a struct with hidden fields was interned")
		}
	}()
	Make(time.Now())
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	got := make([]Value[[]int], 16)
	for i := range got {
		wg.Go(func() { got[i] = Make([]int{1, 2, 3}) })
	}
	wg.Wait()
	for _, g := range got {
		if g != got[0] {
			t.Error("equal values that were made at once differ")
		}
	}
}

// TestFreed: what is not referenced is not kept. It counts a type of its own.
func TestFreed(t *testing.T) {
	t.Parallel()
	type own struct{ N int }
	count := func() (n int) {
		all.Lock()
		defer all.Unlock()
		for s, list := range all.slots {
			if s.typ == reflect.TypeFor[own]() || s.typ == reflect.TypeFor[[]own]() {
				n += len(list)
			}
		}
		return n
	}
	var pool Pool[int, own]
	for i := range 1000 {
		Make(own{i})
		ListOf([]own{{i}})
		pool.Get(i, &own{i})
	}
	kept := pool.Get(-1, &own{-1})
	deadline := time.Now().Add(10 * time.Second)
	for count() > 10 || pool.Len() > 10 {
		if time.Now().After(deadline) {
			t.Fatalf("%d values and %d objects stay", count(), pool.Len())
		}
		runtime.GC()
	}
	if pool.Get(-1, &own{-1}) != kept {
		t.Error("an object that is referenced was replaced")
	}
	runtime.KeepAlive(kept)
}
