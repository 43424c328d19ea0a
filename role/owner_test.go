package role

import (
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Stopping(m)) }

// A store is opened by its owner alone, on both engines; who opens it first owns it.
func TestStoreOfAnotherOwner(t *testing.T) {
	t.Parallel()
	east := store.Owner{Role: store.RoleZone, Zone: "east"}
	for name, edit := range map[string]func(*Config){
		StoreEmbedded: func(*Config) {},
		StorePostgres: func(c *Config) { c.StoreType, c.PostgresURL = StorePostgres, pgtest.New(t) },
	} {
		t.Run(name, func(t *testing.T) {
			c := defaultConfig()
			c.DataDir, c.LogLevel = t.TempDir(), "error"
			edit(c)
			open := func(owner store.Owner) error {
				again := *c
				closeAll, err := again.Open(t.Context(), owner)
				if err == nil {
					closeAll()
				}
				return err
			}
			if err := open(east); err != nil {
				t.Fatal(err)
			}
			for _, other := range []store.Owner{
				{Role: store.RoleGlobal},
				{Role: store.RoleZone, Zone: "west"},
			} {
				err := open(other)
				var foreign *store.OwnerError
				if !errors.As(err, &foreign) || !strings.Contains(err.Error(), "belongs to zone east") ||
					!strings.Contains(err.Error(), "this process is "+other.String()) {
					t.Errorf("open as %s: %v", other, err)
				}
			}
			if err := open(east); err != nil {
				t.Errorf("open as the owner: %v", err)
			}
		})
	}
}
