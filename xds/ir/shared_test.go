package ir

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestShared(t *testing.T) {
	one := func() Shared[Retry] {
		return Share(Retry{On: []string{"5xx"}, Codes: []uint32{503}, PerTry: time.Second})
	}
	a, b := one(), one()
	if a != b || a == Share(Retry{On: []string{"5xx"}}) || a == (Shared[Retry]{}) {
		t.Error("== is not that of the content")
	}
	if v, ok := a.Get(); !ok || v.On[0] != "5xx" || v.Codes[0] != 503 || v.PerTry != time.Second {
		t.Errorf("%v %v", v, ok)
	}
	if _, ok := (Shared[Retry]{}).Get(); ok {
		t.Error("the zero Shared has a value")
	}
	// The same text of another type is another value.
	if _, ok := Share([]string{"x"}).Get(); !ok {
		t.Error("no value")
	}
	type names []string
	if v, _ := Share(names{"x"}).Get(); len(v) != 1 {
		t.Error("no names")
	}
	var wg sync.WaitGroup
	got := make([]Shared[[]int], 16)
	for i := range got {
		wg.Go(func() { got[i] = Share([]int{1, 2, 3}) })
	}
	wg.Wait()
	for _, g := range got {
		if g != got[0] {
			t.Error("equal values that were shared at once differ")
		}
	}
}

// TestSharedIsFreed: what nobody has is not kept.
func TestSharedIsFreed(t *testing.T) {
	count := func() (n int) {
		boxes.Range(func(any, any) bool { n++; return true })
		return n
	}
	before := count()
	for i := range 1000 {
		Share([]int{i})
	}
	deadline := time.Now().Add(10 * time.Second)
	for count() > before+10 {
		if time.Now().After(deadline) {
			t.Fatalf("%d values stay", count()-before)
		}
		runtime.GC()
	}
}
