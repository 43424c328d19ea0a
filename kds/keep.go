package kds

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// What a zone owned in a store that it no longer has is kept: a zone whose volume was lost, or a second
// process of its name, knows nothing of services whose proxies still serve. A kept resource is that of
// the zone again once the zone sends it; what is left goes when the host calls [Sink.Release].

// kept is what a Sink keeps of a former store of its Source.
type kept struct {
	keys map[mesh.Key]bool
	// Former is the id of that store, Proxies how many proxies the zone had with it; 0 if unknown.
	former  string
	proxies int
	changed bool
}

// storedKept is the form of its meta value.
type storedKept struct {
	Former  string   `json:"former"`
	Proxies int      `json:"proxies,omitempty"`
	Keys    []string `json:"keys"`
}

// StateKept is the name of the meta value in which global keeps which resources of a zone are of a former
// store.
func StateKept(zone string) string { return "kds/state/" + zone + "/kept" }

// StoreOf is the id of the store of an epoch: epochs of one store begin with it.
func StoreOf(epoch string) string {
	id, _, _ := strings.Cut(epoch, "-")
	return id
}

// Kept says how many resources are of a former store of the Source, and how many proxies the zone had with
// it; 0 if that is unknown.
func (s *Sink) Kept() (resources, proxies int) { return len(s.kept.keys), s.kept.proxies }

// Keeps says whether a resource is kept of a former store of the Source.
func (s *Sink) Keeps(key mesh.Key) bool { return s.kept.keys[key] }

func (s *Sink) loadKept(value []byte) error {
	s.kept.keys = map[mesh.Key]bool{}
	if len(value) == 0 {
		return nil
	}
	var st storedKept
	if err := json.Unmarshal(value, &st); err != nil {
		return fmt.Errorf("what is kept of %s is not valid JSON: %w", s.cfg.Author, err)
	}
	s.kept.former, s.kept.proxies = st.Former, st.Proxies
	for _, text := range st.Keys {
		key, err := mesh.ParseKey(text)
		if err != nil {
			return fmt.Errorf("what is kept of %s: %w", s.cfg.Author, err)
		}
		s.kept.keys[key] = true
	}
	return nil
}

// keep says whether what a snapshot of a store lacks is kept, because the store is another than before.
func (s *Sink) keep(epoch string) bool {
	return s.cfg.Direction == Up && s.cursor != nil && StoreOf(epoch) != StoreOf(s.cursor.GetStoreId())
}

// keepAll keeps what a snapshot lacks.
func (s *Sink) keepAll(gone []mesh.Key) {
	if len(gone) == 0 {
		return
	}
	s.kept.former, s.kept.changed = StoreOf(s.cursor.GetStoreId()), true
	if s.cfg.Proxies != nil {
		s.kept.proxies = max(s.kept.proxies, s.cfg.Proxies(s.kept.former))
	}
	for _, key := range gone {
		s.kept.keys[key] = true
	}
}

// unkeep says that the Source speaks for a key again.
func (s *Sink) unkeep(key mesh.Key) {
	if s.kept.keys[key] {
		delete(s.kept.keys, key)
		s.kept.changed = true
	}
}

// keptMeta is the write of what is kept, if that changed.
func (s *Sink) keptMeta() []store.Op {
	if !s.kept.changed {
		return nil
	}
	s.kept.changed = false
	st := storedKept{Former: s.kept.former, Proxies: s.kept.proxies, Keys: []string{}}
	for key := range s.kept.keys {
		st.Keys = append(st.Keys, key.String())
	}
	sort.Strings(st.Keys)
	b, err := json.Marshal(st)
	if err != nil {
		panic(fmt.Sprintf("kds: marshal kept keys: %v", err)) // strings and numbers alone
	}
	return []store.Op{store.SetMeta{Name: StateKept(s.cfg.Zone), Value: b}}
}

// Release is a transaction that removes what is kept of a former store. Hosts commit it as they do that of
// [Sink.Flush].
func (s *Sink) Release() (store.Txn, bool) {
	if s.busy != nil || len(s.kept.keys) == 0 {
		return store.Txn{}, false
	}
	t := store.Txn{Author: s.cfg.Author, Epoch: s.cfg.Epoch}
	keys := make([]mesh.Key, 0, len(s.kept.keys))
	for key := range s.kept.keys {
		keys = append(keys, key)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].Compare(keys[j]) < 0 })
	for _, key := range keys {
		t.Ops = append(t.Ops, store.Delete{Key: key})
	}
	s.kept = kept{keys: map[mesh.Key]bool{}, changed: true}
	t.Ops = append(t.Ops, s.keptMeta()...)
	return t, true
}
