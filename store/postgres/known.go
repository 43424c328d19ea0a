package postgres

import (
	"bytes"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// maxKnown bounds the resources that a writer remembers.
const maxKnown = 16384

// known is what a writer remembers of the state at one revision: the resources and kinds that it has
// read or written. With what the log says since, it is the state under the lock of the counter row,
// so that a group needs no read of its own. The holder of the queue's write lock uses it; its zero
// value knows nothing.
type known struct {
	revision  uint64
	head      logRow                      // the first row of revision, which the database must still have
	resources map[mesh.Key]*mesh.Resource // nil values are keys that do not exist
	kinds     map[txn.KindRef]uint64      // only those that were asked for
}

// Resource implements [txn.State] for keys that are known.
func (k *known) Resource(key mesh.Key) *mesh.Resource { return k.resources[key] }

// KindRevision implements [txn.State] for kinds that are known.
func (k *known) KindRevision(kind mesh.Kind, meshName string) uint64 {
	return k.kinds[txn.KindRef{Kind: kind, Mesh: meshName}]
}

// reset forgets everything and starts at a revision.
func (k *known) reset(revision uint64) {
	*k = known{
		revision:  revision,
		resources: map[mesh.Key]*mesh.Resource{},
		kinds:     map[txn.KindRef]uint64{},
	}
}

// news is what of the log rows from k.revision on is not known yet: all of them, unless the first is
// the one that was the last.
func (k *known) news(rows []logRow) []logRow {
	if len(rows) == 0 || !rows[0].equal(k.head) {
		return rows
	}
	for i, row := range rows {
		if row.revision != k.head.revision {
			return rows[i:]
		}
	}
	return nil
}

// follow brings what is known to a revision of the database, whose log rows from k.revision on are
// given, and the commits of those that are news. It forgets everything unless they show that the
// database is the one that was known, and all that came since.
func (k *known) follow(revision uint64, rows []logRow, news []entry) {
	whole := len(rows) > 0 && rows[len(rows)-1].revision == revision
	if whole && rows[0].equal(k.head) {
		for _, e := range news {
			k.apply(e.commit)
		}
		k.revision = revision
	} else {
		k.reset(revision)
	}

	if whole {
		last := len(rows) - 1
		for rows[last].position > 0 {
			last--
		}
		k.head = rows[last]
	}
}

// apply takes the changes of a commit to what is known.
func (k *known) apply(c store.Commit) {
	for _, ch := range c.Changes {
		if _, ok := k.resources[ch.Key]; ok {
			k.resources[ch.Key] = ch.Resource
		}
		for _, ref := range txn.KindRefs(ch) {
			if _, ok := k.kinds[ref]; ok {
				k.kinds[ref] = c.Revision
			}
		}
	}
}

// missing lists what a group needs and is not known, and makes room for it.
func (k *known) missing(requests []*txn.Request) (keys []mesh.Key, kinds []txn.KindRef) {
	if len(k.resources) > maxKnown {
		clear(k.resources)
	}
	for _, r := range requests {
		needs, refs := txn.Needs(r.Txn)
		for _, key := range needs {
			if _, ok := k.resources[key]; !ok {
				k.resources[key] = nil
				keys = append(keys, key)
			}
		}
		for _, ref := range refs {
			if _, ok := k.kinds[ref]; !ok {
				k.kinds[ref] = 0
				kinds = append(kinds, ref)
			}
		}
	}
	return keys, kinds
}

// equal says that two rows are one and the same.
func (r logRow) equal(o logRow) bool {
	return r.revision == o.revision && r.position == o.position && r.at.Equal(o.at) && r.author == o.author &&
		bytes.Equal(r.body, o.body)
}
