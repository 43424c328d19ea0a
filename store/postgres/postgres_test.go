package postgres

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/storetest"
	"github.com/meridian-mesh/meridian/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Stopping(m)) }

func open(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: url, Sealer: storetest.PlainSealer{}})
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

func instance(t testing.TB) storetest.Instance {
	url := pgtest.New(t)
	s := open(t, url)
	return storetest.Instance{
		Store: s,
		Reopen: func(t testing.TB) store.Store {
			t.Helper()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, url)
			return s
		},
		Another: func(t testing.TB) store.Store { return open(t, url) },
	}
}

func TestConformance(t *testing.T) { storetest.Run(t, instance) }

func BenchmarkCommit32Writers(b *testing.B) { storetest.BenchmarkCommit32Writers(b, instance) }
