package relay

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/seal"
)

// MaxBytes bounds the resources of a cache, in bytes; 100 services take less than 1 MB. A proxy that has
// more is not remembered, which is logged.
const MaxBytes = 128 << 20

// slack is what a file may have, in bytes, beyond twice its current resources.
const slack = 1 << 20

// CacheConfig of a [Cache].
type CacheConfig struct {
	// Path of the file, in a private folder. It is made if it is not there.
	Path string
	// Sealer seals the file.
	Sealer *seal.Sealer
	// Identity is what the content is for: node id and document. The content of another identity is
	// not used.
	Identity string
	// MaxBytes of all resources; 0 means [MaxBytes].
	MaxBytes int64
	Logger   *zap.Logger
}

// Cache is what an Envoy acknowledged and still has.
type Cache struct {
	log   *zap.Logger
	limit int64
	// wake has a value when something is to be written.
	wake chan struct{}

	// io is held over all use of file, and taken before mu.
	io     sync.Mutex
	file   *file
	failed bool // the last write failed

	mu         sync.Mutex // guards what follows, and the fields of entries that say where a body is
	generation uint64
	of         map[string]map[string]*entry // by type URL and name
	bytes      int64
	dirty      map[id]struct{} // not on disk as they are
	full       bool            // more than limit was there: nothing is kept until Envoy starts again
}

// id of a resource.
type id struct{ url, name string }

// entry is a resource with one content.
type entry struct {
	version string
	size    int
	// generation of the stream on which Envoy was last known to hold it.
	generation uint64
	body       []byte // until it is written
	at         place  // since
}

// OpenCache opens the file of an earlier launcher, or makes one. It fails if the file cannot be made; what
// cannot be read of it is left out and logged.
func OpenCache(c CacheConfig) (*Cache, error) {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = MaxBytes
	}
	cache := &Cache{
		log:   c.Logger,
		limit: c.MaxBytes,
		wake:  make(chan struct{}, 1),
		file: &file{
			path:     c.Path,
			sealer:   c.Sealer,
			identity: sha256.Sum256([]byte(c.Identity)),
		},
		of:    map[string]map[string]*entry{},
		dirty: map[id]struct{}{},
	}
	unused, err := cache.file.open(func(rec record, at place) {
		if rec.body == nil {
			cache.remove(id{rec.url, rec.name})
			return
		}
		if res, err := parseResource(rec.body); err == nil {
			cache.put(rec.url, rec.name, &entry{version: res.version, size: len(rec.body), at: at})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("cache of acknowledged resources: %w", err)
	}
	clear(cache.dirty)
	if unused > 0 {
		c.Logger.Info("a part of the cache is not used: it was cut short, or is of another proxy or key",
			zap.String("path", c.Path), zap.Int64("bytes", unused), zap.Int("resources_used", cache.Len()))
	}
	return cache, nil
}

// Len is the number of resources.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, names := range c.of {
		n += len(names)
	}
	return n
}

// put and remove change the index; mu is held, or nothing else uses the cache yet.
func (c *Cache) put(url, name string, e *entry) {
	names := c.of[url]
	if names == nil {
		names = map[string]*entry{}
		c.of[url] = names
	}
	if old := names[name]; old != nil {
		c.bytes -= int64(old.size)
	}
	names[name] = e
	c.bytes += int64(e.size)
	c.dirty[id{url, name}] = struct{}{}
}

func (c *Cache) remove(i id) {
	if old := c.of[i.url][i.name]; old != nil {
		c.bytes -= int64(old.size)
		delete(c.of[i.url], i.name)
		c.dirty[i] = struct{}{}
	}
}

// changed has what is dirty written; mu is held.
func (c *Cache) changed() {
	if len(c.dirty) == 0 {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// begin notes that Envoy opened a stream, and gives its generation. What older streams still have to say
// counts no longer. starting says that Envoy is not live.
func (c *Cache) begin(starting bool) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	if starting {
		c.full = false
	}
	return c.generation
}

// hold notes what Envoy says it has.
func (c *Cache) hold(generation uint64, url string, initial map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	for name := range initial {
		if e := c.of[url][name]; e != nil {
			e.generation = generation
		}
	}
}

// unknown are the names of what Envoy says it has and the cache has not, or in another version.
func (c *Cache) unknown(url string, initial map[string]string) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]bool{}
	for name, version := range initial {
		if e := c.of[url][name]; !c.full && (e == nil || e.version != version) {
			out[name] = true
		}
	}
	return out
}

// accept takes over what Envoy acknowledged.
func (c *Cache) accept(generation uint64, r response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation || c.full {
		return
	}
	for _, res := range r.resources {
		if e := c.of[r.url][res.name]; e != nil && e.version == res.version {
			e.generation = generation
			continue
		}
		c.put(r.url, res.name, &entry{
			version:    res.version,
			size:       len(res.body),
			generation: generation,
			body:       res.body,
		})
	}
	for _, name := range r.removed {
		c.remove(id{r.url, name})
	}
	if c.bytes > c.limit {
		c.log.Warn("this proxy has more resources than are kept; an Envoy that restarts needs the zone",
			zap.Int64("bytes", c.bytes), zap.Int64("at_most", c.limit))
		c.full = true
		for url, names := range c.of {
			for name := range names {
				c.remove(id{url, name})
			}
		}
	}
	c.changed()
}

// forget drops what Envoy unsubscribed from.
func (c *Cache) forget(generation uint64, url string, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	for _, name := range names {
		c.remove(id{url, name})
	}
	c.changed()
}

// sweep drops what Envoy does not have of a type.
func (c *Cache) sweep(generation uint64, url string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	for name, e := range c.of[url] {
		if e.generation != generation {
			c.remove(id{url, name})
		}
	}
	c.changed()
}

// stored is an entry as it was at one moment; its fields but generation do not change otherwise.
type stored struct {
	id
	e    *entry
	body []byte
	at   place
	size int
}

// list gives the entries that match, in the order of the file, those that are in memory first; mu is not
// held.
func (c *Cache) list(match func(id) bool) []stored {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []stored
	for url, names := range c.of {
		for name, e := range names {
			if i := (id{url, name}); match(i) {
				out = append(out, stored{id: i, e: e, body: e.body, at: e.at, size: e.size})
			}
		}
	}
	slices.SortFunc(out, func(a, b stored) int {
		return cmp.Or(cmp.Compare(a.at.frame, b.at.frame), cmp.Compare(a.at.start, b.at.start),
			strings.Compare(a.url, b.url), strings.Compare(a.name, b.name))
	})
	return out
}

// bodies gives the body of each entry, frame by frame, until give fails; io is held. Entries whose frame
// cannot be read are dropped.
func (c *Cache) bodies(entries []stored, give func(stored, []byte) error) error {
	var plain []byte
	frame := int64(-1)
	for _, s := range entries {
		body := s.body
		if body == nil {
			if s.at.frame != frame {
				var err error
				if plain, err = c.file.frame(s.at.frame); err != nil {
					c.log.Error("a part of the cache of acknowledged resources cannot be read",
						zap.String("path", c.file.path), zap.Error(err))
				}
				frame = s.at.frame
			}
			if s.at.start+s.size > len(plain) {
				c.drop(s)
				continue
			}
			body = plain[s.at.start : s.at.start+s.size : s.at.start+s.size]
		}
		if err := give(s, body); err != nil {
			return err
		}
	}
	return nil
}

// drop removes an entry that cannot be read, unless another took its place.
func (c *Cache) drop(s stored) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[s.url][s.name] == s.e {
		c.remove(s.id)
		c.changed()
	}
}

// read gives the resources of a type that match.
func (c *Cache) read(url string, match func(name string) bool) []resource {
	c.io.Lock()
	defer c.io.Unlock()
	entries := c.list(func(i id) bool { return i.url == url && match(i.name) })
	var out []resource
	_ = c.bodies(entries, func(s stored, body []byte) error {
		out = append(out, resource{name: s.name, version: s.e.version, body: body})
		return nil
	})
	return out
}

// Run writes what changes until ctx ends, and then once more; it closes the file.
func (c *Cache) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case <-c.wake:
		case <-ctx.Done():
		}
		c.flush()
	}
	c.io.Lock()
	defer c.io.Unlock()
	return c.file.close()
}

// flush writes what is not on disk.
func (c *Cache) flush() {
	c.io.Lock()
	defer c.io.Unlock()

	c.mu.Lock()
	dirty := c.dirty
	c.dirty = map[id]struct{}{}
	current, more := c.bytes, int64(0)
	var batch []record
	var entries []*entry
	for _, i := range slices.SortedFunc(maps.Keys(dirty), func(a, b id) int {
		return cmp.Or(strings.Compare(a.url, b.url), strings.Compare(a.name, b.name))
	}) {
		e := c.of[i.url][i.name]
		rec := record{url: i.url, name: i.name}
		if e != nil {
			if e.body == nil {
				continue // a compaction wrote it meanwhile
			}
			rec.body = e.body
			more += int64(len(e.body))
		}
		batch, entries = append(batch, rec), append(entries, e)
	}
	c.mu.Unlock()
	if len(batch) == 0 {
		return
	}

	var err error
	if c.file.unfit || c.file.size+more > 2*current+slack {
		err = c.compact()
	} else {
		var places []place
		if places, err = c.file.append(batch, false); err == nil {
			c.mu.Lock()
			for i, e := range entries {
				if e != nil {
					e.body, e.at = nil, places[i]
				}
			}
			c.mu.Unlock()
		}
	}
	if err == nil {
		c.failed = false
		return
	}
	c.mu.Lock()
	for i := range dirty {
		c.dirty[i] = struct{}{}
	}
	c.mu.Unlock()
	if !c.failed {
		c.failed = true
		c.log.Error("the cache of acknowledged resources cannot be written; they stay in memory, and are "+
			"written with the next change", zap.String("path", c.file.path), zap.Error(err))
	}
}

// compact writes all entries to a new file, which replaces the old one; io is held.
func (c *Cache) compact() error {
	next := &file{path: c.file.path + ".new", sealer: c.file.sealer, identity: c.file.identity}
	if err := next.create(next.path); err != nil {
		return err
	}
	entries := c.list(func(id) bool { return true })
	var batch []record
	var written, waiting []stored
	var places []place
	bytes := 0
	write := func(more bool) error {
		at, err := next.append(batch, more)
		places, written = append(places, at...), append(written, waiting...)
		batch, waiting, bytes = nil, nil, 0
		return err
	}
	err := c.bodies(entries, func(s stored, body []byte) error {
		batch, waiting = append(batch, record{url: s.url, name: s.name, body: body}), append(waiting, s)
		if bytes += len(body); bytes < frameBytes {
			return nil
		}
		return write(true)
	})
	err = errors.Join(err, write(false))
	if err == nil {
		err = c.file.replace(next)
	}
	if err != nil {
		return errors.Join(err, next.close(), os.Remove(next.path))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range written {
		s.e.body, s.e.at = nil, places[i]
	}
	return nil
}
