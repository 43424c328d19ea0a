package replica

import (
	"iter"
	"sync"

	"github.com/tidwall/btree"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// entry is an element of the tree. The key is a pointer so that a lookup does not need a whole Resource.
type entry struct {
	key      *mesh.Key
	resource *mesh.Resource
}

func newTree() *btree.BTreeG[entry] {
	return btree.NewBTreeGOptions(func(a, b entry) bool { return a.key.Compare(*b.key) < 0 },
		btree.Options{NoLocks: true})
}

// View is the state of a store at one revision: immutable, safe for concurrent use, a value. The
// zero View is empty.
type View struct {
	epoch    string
	revision uint64
	tree     *btree.BTreeG[entry]
	// deriving guards the copying of tree, which marks it; nil if tree is.
	deriving *sync.Mutex
}

// NewView makes a view of resources; of two with one key the last counts.
func NewView(revision uint64, resources ...*mesh.Resource) View {
	tree := newTree()
	for _, r := range resources {
		tree.Set(entry{&r.Key, r})
	}
	return View{revision: revision, tree: tree, deriving: new(sync.Mutex)}
}

// In is the view as one of an epoch.
func (v View) In(epoch string) View {
	v.epoch = epoch
	return v
}

// With is the view after changes, at revision. v stays as it is.
func (v View) With(revision uint64, changes []store.Change) View {
	tree := newTree()
	if v.tree != nil {
		v.deriving.Lock()
		tree = v.tree.Copy()
		v.deriving.Unlock()
	}
	for _, ch := range changes {
		if ch.Resource == nil {
			tree.Delete(entry{key: &ch.Key})
		} else {
			tree.Set(entry{&ch.Resource.Key, ch.Resource})
		}
	}
	return View{epoch: v.epoch, revision: revision, tree: tree, deriving: new(sync.Mutex)}
}

// Epoch of the store that the revision counts in; see [store.Store].
func (v View) Epoch() string { return v.epoch }

// Revision of the store that the view shows; 0 for an empty store and the zero View.
func (v View) Revision() uint64 { return v.revision }

// Len is the number of resources.
func (v View) Len() int {
	if v.tree == nil {
		return 0
	}
	return v.tree.Len()
}

// Get finds one resource. Do not change it.
func (v View) Get(key mesh.Key) (*mesh.Resource, bool) {
	if v.tree == nil {
		return nil, false
	}
	e, ok := v.tree.Get(entry{key: &key})
	return e.resource, ok
}

// List is every resource of a kind in a mesh (empty: of all meshes, and for kinds of global scope),
// in the order of keys.
func (v View) List(kind mesh.Kind, meshName string) iter.Seq[*mesh.Resource] {
	return func(yield func(*mesh.Resource) bool) {
		if v.tree == nil {
			return
		}
		v.tree.Ascend(entry{key: &mesh.Key{Kind: kind, Mesh: meshName}}, func(e entry) bool {
			if e.key.Kind != kind || (meshName != "" && e.key.Mesh != meshName) {
				return false
			}
			return yield(e.resource)
		})
	}
}

// All is every resource in the order of keys.
func (v View) All() iter.Seq[*mesh.Resource] {
	return func(yield func(*mesh.Resource) bool) {
		if v.tree == nil {
			return
		}
		v.tree.Scan(func(e entry) bool { return yield(e.resource) })
	}
}
