package relay

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/internal/seal"
)

const (
	clusters  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpoints = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	secrets   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

func sealer(t testing.TB, key byte) *seal.Sealer {
	t.Helper()
	s, err := seal.New(bytes.Repeat([]byte{key}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, path string, change ...func(*CacheConfig)) *Cache {
	t.Helper()
	cfg := CacheConfig{Path: path, Sealer: sealer(t, 7), Identity: "default.web-1"}
	for _, f := range change {
		f(&cfg)
	}
	c, err := OpenCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shut writes what is left, as the end of Run does.
func shut(t testing.TB, c *Cache) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.flush()
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// res is a resource as a zone encodes it.
func res(name, version, text string) resource {
	b := appendField(nil, resourceVersion, []byte(version))
	b = appendField(b, 2, []byte(text))
	b = appendField(b, resourceName, []byte(name))
	return resource{name: name, version: version, body: b}
}

// contents is "TYPE NAME" to version and body.
func contents(c *Cache) map[string]string {
	out := map[string]string{}
	for _, url := range []string{clusters, endpoints, secrets} {
		for _, r := range c.read(url, func(string) bool { return true }) {
			out[url+" "+r.name] = r.version + " " + string(r.body)
		}
	}
	return out
}

func TestCacheSurvivesItsProcess(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "cache")
	c := open(t, path)
	g := c.begin(true)
	c.accept(g, response{url: clusters, resources: []resource{res("a", "1", "one"), res("b", "1", "two")}})
	c.flush()
	c.accept(g, response{url: clusters, resources: []resource{res("a", "2", "ONE")}, removed: []string{"b"}})
	c.accept(g, response{url: secrets, resources: []resource{res("key", "1", "private key")}})
	want := contents(c)
	shut(t, c)

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, clear := range []string{"private key", "ONE", "Cluster", "Secret"} {
		if bytes.Contains(data, []byte(clear)) {
			t.Errorf("%q is in the file in clear", clear)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	again := open(t, path)
	if got := contents(again); !maps.Equal(got, want) || len(got) != 2 {
		t.Errorf("after the restart %v\nbefore %v", got, want)
	}
	shut(t, again)

	for name, change := range map[string]func(*CacheConfig){
		"key":   func(cfg *CacheConfig) { cfg.Sealer = sealer(t, 8) },
		"proxy": func(cfg *CacheConfig) { cfg.Identity = "default.web-2" },
	} {
		other := filepath.Join(t.TempDir(), "cache")
		if err := os.WriteFile(other, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c := open(t, other, change)
		if got := contents(c); len(got) != 0 {
			t.Errorf("another %s reads %v", name, got)
		}
		shut(t, c)
	}
}

// TestCacheOfADamagedFile: whatever is cut off or altered, what is read is what was there after one of the
// batches.
func TestCacheOfADamagedFile(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "cache")
	c := open(t, path)
	g := c.begin(true)
	states := []map[string]string{{}}
	for i := range 5 {
		// A batch of two frames: half of it must not be seen.
		big := strings.Repeat("x", frameBytes/2)
		c.accept(g, response{url: endpoints, resources: []resource{
			res("a", fmt.Sprint(i), big),
			res("b", fmt.Sprint(i), big),
			res("c", fmt.Sprint(i), big),
		}})
		c.flush()
		if c.file.size > headerSize+int64(2*3*frameBytes) {
			break // a compaction would follow
		}
		states = append(states, contents(c))
	}
	shut(t, c)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		damaged := slices.Clone(data[:1+r.IntN(len(data))])
		if i%2 == 0 {
			damaged = slices.Clone(data)
			damaged[r.IntN(len(damaged))] ^= 1 << r.IntN(8)
		}
		path := filepath.Join(t.TempDir(), "cache")
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		c := open(t, path)
		got := contents(c)
		if !slices.ContainsFunc(states, func(s map[string]string) bool { return maps.Equal(s, got) }) {
			t.Errorf("case %d: what is read was never there", i)
		}
		// It can be written again.
		c.accept(c.begin(true), response{url: clusters, resources: []resource{res("new", "1", "new")}})
		want := contents(c)
		shut(t, c)
		again := open(t, path)
		if got := contents(again); !maps.Equal(got, want) {
			t.Errorf("case %d: what was written after the damage is not there", i)
		}
		shut(t, again)
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "cache")
	c := open(t, path)
	g := c.begin(true)
	text := strings.Repeat("y", 10<<10)
	for i := range 1000 {
		one := res(fmt.Sprint(i%100), fmt.Sprint(i), text)
		c.accept(g, response{url: endpoints, resources: []resource{one}})
		c.flush()
		c.mu.Lock()
		current := c.bytes
		c.mu.Unlock()
		if info, err := os.Stat(path); err != nil || info.Size() > 2*current+slack+frameBytes {
			t.Fatalf("%d bytes on disk for %d bytes of resources, %v", info.Size(), current, err)
		}
	}
	for url, names := range c.of {
		for name, e := range names {
			if e.body != nil {
				t.Errorf("%s %s is still in memory", url, name)
			}
		}
	}
	if n := c.Len(); n != 100 {
		t.Errorf("%d resources", n)
	}
	want := contents(c)
	shut(t, c)
	again := open(t, path)
	if !maps.Equal(contents(again), want) {
		t.Error("the file that was written again has other resources")
	}
	shut(t, again)

	t.Run("frames that are full", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "cache")
		c := open(t, path)
		g := c.begin(true)
		for i := range 10 {
			one := res(fmt.Sprint(i%2), fmt.Sprint(i), strings.Repeat("z", frameBytes))
			c.accept(g, response{url: endpoints, resources: []resource{one}})
			c.flush()
			_ = c.file.close()
			want := len(c.of[endpoints])
			c = open(t, path)
			if n := c.Len(); n != want {
				t.Fatalf("%d resources after change %d, must be %d", n, i, want)
			}
			g = c.begin(false)
		}
		shut(t, c)
	})
	t.Run("more than may be kept", func(t *testing.T) {
		c := open(t, filepath.Join(t.TempDir(), "cache"), func(cfg *CacheConfig) { cfg.MaxBytes = 20 << 10 })
		g := c.begin(true)
		for i := range 3 {
			c.accept(g, response{url: endpoints, resources: []resource{res(fmt.Sprint(i), "1", text)}})
		}
		if n := c.Len(); n != 0 {
			t.Errorf("%d resources of a proxy that has too many", n)
		}
		if u := c.unknown(endpoints, map[string]string{"0": "1"}); len(u) != 0 {
			t.Errorf("asks for %v again, which it would not keep", u)
		}
		g = c.begin(true)
		c.accept(g, response{url: endpoints, resources: []resource{res("0", "1", text)}})
		if n := c.Len(); n != 1 {
			t.Errorf("%d resources of the next Envoy", n)
		}
		shut(t, c)
	})
}

// TestCacheThatCannotBeWritten keeps everything in memory, and writes it when it can.
func TestCacheThatCannotBeWritten(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "cache")
	c := open(t, path)
	good := c.file.f
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	c.file.f = readOnly
	if err := os.Mkdir(path+".new", 0o700); err != nil { // and it cannot be replaced
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path+".new", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := c.begin(true)
	c.accept(g, response{url: clusters, resources: []resource{res("a", "1", "one")}})
	c.flush()
	if got := contents(c); len(got) != 1 {
		t.Fatalf("got %v", got)
	}
	c.file.f = good
	_ = readOnly.Close()
	if err := os.RemoveAll(path + ".new"); err != nil {
		t.Fatal(err)
	}
	c.accept(g, response{url: clusters, resources: []resource{res("b", "1", "two")}})
	want := contents(c)
	shut(t, c)
	again := open(t, path)
	if got := contents(again); !maps.Equal(got, want) || len(got) != 2 {
		t.Errorf("got %v, want %v", got, want)
	}
	shut(t, again)
}
