package embedded

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func onDisk(t testing.TB) storetest.Instance {
	c := Config{Dir: t.TempDir(), Sealer: storetest.PlainSealer{}}
	s := open(t, c)
	return storetest.Instance{Store: s, Reopen: func(t testing.TB) store.Store {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, c)
		return s
	}}
}

func inMemory(t testing.TB) storetest.Instance {
	return storetest.Instance{Store: open(t, Config{InMemory: true})}
}

func TestConformance(t *testing.T) {
	t.Run("disk", func(t *testing.T) { storetest.Run(t, onDisk) })
	t.Run("memory", func(t *testing.T) { storetest.Run(t, inMemory) })
}

func BenchmarkCommit32Writers(b *testing.B) {
	b.Run("disk", func(b *testing.B) { storetest.BenchmarkCommit32Writers(b, onDisk) })
	b.Run("memory", func(b *testing.B) { storetest.BenchmarkCommit32Writers(b, inMemory) })
}
