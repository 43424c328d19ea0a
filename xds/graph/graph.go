package graph

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime/debug"
	"slices"
)

// ErrKeep is what a compute function returns to keep its last value without failing: what it reads
// is not there, and an input will say when it is.
var ErrKeep = errors.New("the last value is kept")

// PanicError is a panic of a compute function: a bug, contained to the one value.
type PanicError struct {
	// Query is the name of the query.
	Query string
	Value any
	Stack []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("computing %s panicked: %v", e.Query, e.Value)
}

// Graph is the values and who read what. One goroutine owns it.
type Graph struct {
	tables []*table
	// dirty nodes by level.
	dirty [][]*Node
	// loose nodes lost their last user in this batch and are dropped at its end unless one came back.
	loose  []*Node
	failed map[*Node]struct{}
	mark   uint64
	batch  uint64
	// reads is how many reads are recorded.
	reads int
}

// table is what all nodes of one query or input share.
type table struct {
	g     *Graph
	name  string
	level int
	stats Stats
}

// Stats count what one query or input did.
type Stats struct {
	Name string
	// Computes counts calls of the compute function, Failures those that gave no value.
	Computes, Failures uint64
	// Values are remembered at the moment.
	Values int
}

// New makes an empty graph.
func New() *Graph { return &Graph{failed: map[*Node]struct{}{}} }

// add gives a table the next level, since a query can only read earlier ones.
func (g *Graph) add(name string) *table {
	t := &table{
		g:     g,
		name:  name,
		level: len(g.tables),
		stats: Stats{Name: name},
	}
	g.tables = append(g.tables, t)
	g.dirty = append(g.dirty, nil)
	return t
}

// Begin starts a batch of changes; what failed in earlier ones will be tried again.
func (g *Graph) Begin() {
	g.batch++
	for n := range g.failed {
		g.invalidate(n)
	}
}

// Batch is the number of the current batch; see [Cell.Changed].
func (g *Graph) Batch() uint64 { return g.batch }

// Recompute computes what is dirty, lowest level first, and drops what has no user any more.
func (g *Graph) Recompute() {
	for level := range g.dirty {
		// A level's list can grow only from lower levels, all of which are done.
		list := g.dirty[level]
		g.dirty[level] = nil
		for _, n := range list {
			g.recompute(n)
		}
	}

	for len(g.loose) > 0 {
		list := g.loose
		g.loose = nil
		for _, n := range list {
			if !n.used() && n.state != stateDropped {
				g.drop(n)
			}
		}
	}
}

func (g *Graph) recompute(n *Node) {
	if n.state != stateDirty {
		return
	}
	if !n.used() {
		g.drop(n)
		return
	}
	if !n.owner.compute() {
		return
	}
	g.changed(n)
	if n.onChange != nil {
		n.onChange()
	}
}

// changed marks what read n.
func (g *Graph) changed(n *Node) {
	n.changed = g.batch
	for u := range n.users {
		g.invalidate(u)
	}
}

func (g *Graph) invalidate(n *Node) {
	if n.state != stateClean {
		return
	}
	n.state = stateDirty
	g.dirty[n.table.level] = append(g.dirty[n.table.level], n)
}

// run recomputes n and links it to what it read.
func (g *Graph) run(n *Node, compute func(*Reader) (changed bool, err error)) bool {
	g.mark++
	r := &Reader{g: g, n: n, mark: g.mark}
	n.table.stats.Computes++
	changed, err := guarded(r, compute)
	g.link(n, r.deps)
	n.state = stateClean

	if errors.Is(err, ErrKeep) {
		return false
	}
	if err != nil {
		n.table.stats.Failures++
		n.failure = err
		g.failed[n] = struct{}{}
		return false
	}

	if n.hollow() {
		changed = true // what made do without the value is computed again, even if the value is empty
	}
	n.good = true
	if n.failure != nil {
		n.failure = nil
		delete(g.failed, n)
	}
	return changed
}

func guarded(r *Reader, compute func(*Reader) (bool, error)) (changed bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			changed, err = false, &PanicError{Query: r.n.table.name, Value: p, Stack: debug.Stack()}
		}
	}()
	return compute(r)
}

// link replaces what n has read.
func (g *Graph) link(n *Node, deps []*Node) {
	// Nested computes moved the marks of nodes: set those of the final list.
	g.mark++
	for _, d := range deps {
		d.mark = g.mark
		if d.users == nil {
			d.users = map[*Node]struct{}{}
		}
		d.users[n] = struct{}{}
	}
	for _, d := range n.deps {
		if d.mark != g.mark {
			g.unlink(n, d)
		}
	}
	g.reads += len(deps) - len(n.deps)
	n.deps = slices.Clip(deps)
}

func (g *Graph) unlink(user, dep *Node) {
	delete(dep.users, user)
	if !dep.used() {
		g.loose = append(g.loose, dep)
	}
}

func (g *Graph) drop(n *Node) {
	n.state = stateDropped
	n.table.stats.Values--
	delete(g.failed, n)
	for _, d := range n.deps {
		g.unlink(n, d)
	}
	g.reads -= len(n.deps)
	n.deps = nil
	n.owner.forget()
}

// Failed are the values whose last compute failed, in no order.
func (g *Graph) Failed() iter.Seq[*Node] { return maps.Keys(g.failed) }

// Stats are those of all queries and inputs, in the order of their declaration.
func (g *Graph) Stats() iter.Seq[Stats] {
	return func(yield func(Stats) bool) {
		for _, t := range g.tables {
			if !yield(t.stats) {
				return
			}
		}
	}
}

// Size is the size of the record: the reads that are kept, and the values that read or are read.
func (g *Graph) Size() (reads, values int) {
	for _, t := range g.tables {
		values += t.stats.Values
	}
	return g.reads, values
}

// Ask runs fn once as a query that is not kept, of this name and key.
func (g *Graph) Ask(name string, key Key, fn func(*Reader) error) error {
	o := &once{k: key}
	o.node = Node{owner: o, table: &table{g: g, name: name, level: len(g.tables)}}
	g.run(&o.node, func(r *Reader) (bool, error) { return false, fn(r) })
	err := o.node.failure
	g.drop(&o.node)
	g.Recompute()
	return err
}
