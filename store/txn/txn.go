// Package txn is what both stores do with a transaction: pure functions without I/O and clock, and
// the queue that makes groups of concurrent transactions.
//
// # Evaluation
//
// [Validate] refuses transactions that make no sense, whatever the store holds. [Needs] names what
// a transaction reads, so that a store can fetch it at once. [Evaluate] runs the checks against a
// [State] and turns operations into changes: what each resource is after the commit and was before.
// Operations that change nothing yield no change. Since both stores use this one piece of code,
// they have one semantics.
//
// # Equality
//
// A Put changes something if the labels, the deterministic bytes of the spec, or the origin
// revision differ from what is stored. Generation grows only if the spec differs. Status is
// compared by deterministic bytes.
//
// # Rows
//
// [Codec] turns resources and commits into rows and back. Specs of secret kinds are sealed with the
// resource's key as context, in current rows and in the log alike. A row carries a checksum over
// its name and its bytes, so that damage, and a row that moved to another place, is found when it
// is read.
package txn

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// State is what a transaction is evaluated against: the latest state in the order of commits.
type State interface {
	// Resource is nil if there is none.
	Resource(key mesh.Key) *mesh.Resource
	// KindRevision is that of the last change of spec or labels in a kind of a mesh, deletions
	// included; 0 if there was none. Mesh "" is the kind in every mesh.
	KindRevision(kind mesh.Kind, meshName string) uint64
}

// KindRef names a kind in one mesh, or in all if Mesh is empty.
type KindRef struct {
	Kind mesh.Kind
	Mesh string
}

// Validate refuses a transaction that can never make sense, with [*store.InvalidError].
func Validate(t store.Txn) error {
	type seen struct{ put, status, del bool }
	keys := make(map[mesh.Key]seen, len(t.Ops))
	names := map[string]bool{}
	for i, op := range t.Ops {
		switch op := op.(type) {
		case store.Put:
			if op.Resource == nil {
				return invalid("op %d puts no resource", i)
			}
			info, err := checkKey(op.Resource.Key)
			if err != nil {
				return err
			}
			if want := info.NewSpec(); !sameType(want, op.Resource.Spec) {
				return invalid("put of %s: the spec is %T, it must be %T",
					op.Resource.Key, op.Resource.Spec, want)
			}
			s := keys[op.Resource.Key]
			if s.put || s.del {
				return invalid("two operations on %s in one transaction", op.Resource.Key)
			}
			s.put = true
			keys[op.Resource.Key] = s
		case store.PutStatus:
			info, err := checkKey(op.Key)
			if err != nil {
				return err
			}
			if info.NewStatus == nil {
				return invalid("put of status of %s: the kind has none", op.Key)
			}
			if op.Status != nil && !sameType(info.NewStatus(), op.Status) {
				return invalid("put of status of %s: it is %T, it must be %T",
					op.Key, op.Status, info.NewStatus())
			}
			s := keys[op.Key]
			if s.status || s.del {
				return invalid("two operations on %s in one transaction", op.Key)
			}
			s.status = true
			keys[op.Key] = s
		case store.Delete:
			if _, err := checkKey(op.Key); err != nil {
				return err
			}
			if keys[op.Key] != (seen{}) {
				return invalid("two operations on %s in one transaction", op.Key)
			}
			keys[op.Key] = seen{del: true}
		case store.SetMeta:
			if op.Name == "" || !utf8.ValidString(op.Name) || strings.ContainsRune(op.Name, 0) {
				return invalid("op %d sets meta without a proper name: %q", i, op.Name)
			}
			if names[op.Name] {
				return invalid("meta %q is set twice in one transaction", op.Name)
			}
			names[op.Name] = true
		case store.Audit:
			if op.Entry.Who == "" || op.Entry.Action == "" {
				return invalid("op %d is an audit entry without who or action", i)
			}
		default:
			return invalid("op %d is a %T, not an operation of package store", i, op)
		}
	}
	for i, c := range t.Checks {
		switch c := c.(type) {
		case store.KeyAt:
			if _, err := checkKey(c.Key); err != nil {
				return err
			}
		case store.KindUnchanged:
			if _, ok := mesh.Lookup(c.Kind); !ok {
				return invalid("check %d names the unknown kind %q", i, c.Kind)
			}
		default:
			return invalid("check %d is a %T, not a check of package store", i, c)
		}
	}
	if !utf8.ValidString(t.Author) || strings.ContainsRune(t.Author, 0) {
		return invalid("author %q is not valid UTF-8 or contains a zero byte", t.Author)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &store.InvalidError{Reason: fmt.Sprintf(format, args...)}
}

func sameType(want, got proto.Message) bool {
	return got != nil && want.ProtoReflect().Descriptor() == got.ProtoReflect().Descriptor() &&
		got.ProtoReflect().IsValid()
}

func checkKey(k mesh.Key) (*mesh.KindInfo, error) {
	info, err := k.Check()
	if err != nil {
		return nil, invalid("key %s: %v", k, err)
	}
	return info, nil
}

// Needs lists the keys and kinds that Evaluate will read, possibly with repetitions.
func Needs(t store.Txn) (keys []mesh.Key, kinds []KindRef) {
	for _, c := range t.Checks {
		switch c := c.(type) {
		case store.KeyAt:
			keys = append(keys, c.Key)
		case store.KindUnchanged:
			kinds = append(kinds, KindRef{c.Kind, c.Mesh})
		}
	}
	for _, op := range t.Ops {
		switch op := op.(type) {
		case store.Put:
			keys = append(keys, op.Resource.Key)
		case store.PutStatus:
			keys = append(keys, op.Key)
		case store.Delete:
			keys = append(keys, op.Key)
		case store.Audit:
			if key, ok := op.Entry.Key(); ok {
				keys = append(keys, key)
			}
		}
	}
	return keys, kinds
}

// CheckEpoch refuses a transaction that was made from another epoch of the store.
func CheckEpoch(t store.Txn, epoch string) error {
	if t.Epoch != "" && t.Epoch != epoch {
		return store.ErrReset
	}
	return nil
}

// Effects is what a transaction writes.
type Effects struct {
	// Changes of the commit; none if nothing changes.
	Changes []store.Change
	Metas   []store.SetMeta
	// Audit is complete but for the IDs.
	Audit []store.AuditEntry
}

// Result is the answer to a transaction that was evaluated to f, at the revision reached.
func (f Effects) Result(revision uint64) store.Result {
	r := store.Result{Revision: revision, Changed: len(f.Changes) > 0}
	if len(f.Audit) > 0 {
		r.Audit = &f.Audit[0]
	}
	return r
}

// Evaluate runs a valid transaction against state: a failed check is [*store.ConflictError].
// Otherwise it returns what a commit at revision and time now writes.
func Evaluate(state State, t store.Txn, revision uint64, now time.Time) (Effects, error) {
	for _, c := range t.Checks {
		switch c := c.(type) {
		case store.KeyAt:
			var at uint64
			if r := state.Resource(c.Key); r != nil {
				at = r.Revision
			}
			if at != c.Revision {
				return Effects{}, &store.ConflictError{Check: c, Revision: at}
			}
		case store.KindUnchanged:
			if at := state.KindRevision(c.Kind, c.Mesh); at > c.Since {
				return Effects{}, &store.ConflictError{Check: c, Revision: at}
			}
		}
	}
	var out Effects
	// A key has at most one change: a Put and a PutStatus of one key are one.
	type pair struct {
		put    *store.Put
		status *store.PutStatus
		done   bool
	}
	var pairs map[mesh.Key]*pair
	if len(t.Ops) > 1 {
		pairs = make(map[mesh.Key]*pair, len(t.Ops))
		for _, op := range t.Ops {
			switch op := op.(type) {
			case store.Put:
				entry(pairs, op.Resource.Key).put = &op
			case store.PutStatus:
				entry(pairs, op.Key).status = &op
			}
		}
	}
	for _, op := range t.Ops {
		var change store.Change
		var changed bool
		switch op := op.(type) {
		case store.SetMeta:
			out.Metas = append(out.Metas, op)
			continue
		case store.Audit:
			out.Audit = append(out.Audit, op.Entry)
			continue
		case store.Delete:
			if old := state.Resource(op.Key); old != nil {
				change, changed = store.Change{Type: store.ChangeDelete, Key: op.Key, Old: old}, true
			}
		case store.Put:
			p := &pair{put: &op}
			if pairs != nil {
				p = pairs[op.Resource.Key]
			}
			if p.done {
				continue
			}
			p.done = true
			change, changed = write(state, op.Resource.Key, p.put, p.status, revision, now)
		case store.PutStatus:
			p := &pair{status: &op}
			if pairs != nil {
				p = pairs[op.Key]
			}
			if p.done {
				continue
			}
			p.done = true
			change, changed = write(state, op.Key, p.put, p.status, revision, now)
		}
		if changed {
			out.Changes = append(out.Changes, change)
		}
	}
	for i := range out.Audit {
		out.complete(&out.Audit[i], state, revision, now)
	}
	return out, nil
}

// complete fills in what the store knows of an entry.
func (f *Effects) complete(e *store.AuditEntry, state State, revision uint64, now time.Time) {
	e.Time = now
	key, ok := e.Key()
	if !ok {
		return
	}
	if r := state.Resource(key); r != nil {
		e.Before, e.After = r.Revision, r.Revision
	}
	if slices.ContainsFunc(f.Changes, func(c store.Change) bool {
		return c.Key == key && c.Type != store.ChangeStatus
	}) {
		e.After = revision
	}
}

func entry[K comparable, V any](m map[K]*V, k K) *V {
	v, ok := m[k]
	if !ok {
		v = new(V)
		m[k] = v
	}
	return v
}

// write makes the change of a Put, a PutStatus, or both, of one key.
func write(state State, key mesh.Key, put *store.Put, status *store.PutStatus, revision uint64,
	now time.Time) (store.Change, bool) {
	old := state.Resource(key)
	if old == nil && put == nil {
		return store.Change{}, false
	}
	next := &mesh.Resource{Key: key, Created: now, Modified: now}
	if old != nil {
		*next = *old
	}
	spec := false
	if put != nil {
		in := put.Resource
		specDiffers := old == nil || !sameMessage(old.Spec, in.Spec)
		spec = specDiffers || old.OriginRevision != in.OriginRevision || !maps.Equal(old.Labels, in.Labels)
		if spec {
			next.Labels, next.OriginRevision, next.Revision, next.Modified = in.Labels, in.OriginRevision,
				revision, now
			if specDiffers {
				next.Spec = share(in.Spec)
				next.Generation++
			}
			if !in.Created.IsZero() {
				next.Created = in.Created
			}
		}
	}
	stat := status != nil && !sameMessage(next.Status, status.Status)
	if stat {
		next.Status, next.StatusRevision = status.Status, revision
	}
	switch {
	case spec:
		return store.Change{
			Type:     store.ChangeSpec,
			Key:      key,
			Resource: next,
			Old:      old,
		}, true
	case stat:
		return store.Change{
			Type:     store.ChangeStatus,
			Key:      key,
			Resource: next,
			Old:      old,
		}, true
	}
	return store.Change{}, false
}

// sameMessage compares by deterministic bytes; two messages that cannot be encoded are different.
func sameMessage(a, b proto.Message) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if a == b {
		return true
	}
	opts := proto.MarshalOptions{Deterministic: true}
	ab, err := opts.Marshal(a)
	if err != nil {
		return false
	}
	bb, err := opts.Marshal(b)
	return err == nil && bytes.Equal(ab, bb)
}
