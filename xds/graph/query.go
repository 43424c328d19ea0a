package graph

// ComparableKey is the constraint of keys of tables.
type ComparableKey interface {
	comparable
	Key
}

// Input is a table of values that are written outside and read through a reader. It holds no values:
// the caller that notes a read fetches the value from where it is.
type Input[K ComparableKey] struct {
	table *table
	nodes map[K]*inputNode[K]
}

type inputNode[K ComparableKey] struct {
	Node
	k  K
	in *Input[K]
}

func (n *inputNode[K]) key() Key      { return n.k }
func (n *inputNode[K]) value() any    { return nil }
func (n *inputNode[K]) compute() bool { return false }
func (n *inputNode[K]) forget()       { delete(n.in.nodes, n.k) }

// NewInput adds a table of inputs to g.
func NewInput[K ComparableKey](g *Graph, name string) *Input[K] {
	return &Input[K]{table: g.add(name), nodes: map[K]*inputNode[K]{}}
}

// Note records that r reads the input at k.
func (in *Input[K]) Note(r *Reader, k K) {
	n := in.nodes[k]
	if n == nil {
		n = &inputNode[K]{k: k, in: in}
		n.table, n.owner, n.state = in.table, n, stateInput
		in.nodes[k] = n
		in.table.stats.Values++
	}
	r.note(&n.Node)
}

// MarkDirty says that the value at k changed.
func (in *Input[K]) MarkDirty(k K) {
	if n := in.nodes[k]; n != nil {
		in.table.g.changed(&n.Node)
	}
}

// Query is a remembered function of K.
type Query[K ComparableKey, V any] struct {
	table *table
	fn    func(r *Reader, k K) (V, error)
	keep  func(old, now V) (V, bool)
	nodes map[K]*memo[K, V]
}

// Cell holds one value of a query for those outside the graph.
type Cell[V any] struct {
	Node
	v V
}

type memo[K ComparableKey, V any] struct {
	Cell[V]
	k K
	q *Query[K, V]
}

func (m *memo[K, V]) key() Key   { return m.k }
func (m *memo[K, V]) value() any { return m.v }
func (m *memo[K, V]) forget()    { delete(m.q.nodes, m.k) }

func (m *memo[K, V]) compute() bool {
	first := m.state == stateNew
	return m.table.g.run(&m.Node, func(r *Reader) (bool, error) {
		v, err := m.q.fn(r, m.k)
		if err != nil {
			return false, err
		}
		var changed bool
		m.v, changed = m.q.keep(m.v, v)
		return changed || first, nil
	})
}

// NewQuery adds a query to g, one level above what was added before. keep compares the old value,
// which is the zero value at first, with the new one; it returns the one to keep and whether it
// changed: [Same], [SameBy], or a function that keeps equal parts.
func NewQuery[K ComparableKey, V any](g *Graph, name string, keep func(old, now V) (V, bool),
	fn func(*Reader, K) (V, error)) *Query[K, V] {
	return &Query[K, V]{
		table: g.add(name),
		fn:    fn,
		keep:  keep,
		nodes: map[K]*memo[K, V]{},
	}
}

// Same compares with ==.
func Same[V comparable](old, now V) (V, bool) { return now, old != now }

// SameBy compares with equal, and keeps the old value if it says so.
func SameBy[V any](equal func(a, b V) bool) func(V, V) (V, bool) {
	return func(old, now V) (V, bool) {
		if equal(old, now) {
			return old, false
		}
		return now, true
	}
}

// Func is the compute function.
func (q *Query[K, V]) Func() func(*Reader, K) (V, error) { return q.fn }

// SetFunc replaces the compute function, for tests of what follows when one fails. Values are
// computed by it when they are dirty next.
func (q *Query[K, V]) SetFunc(fn func(*Reader, K) (V, error)) { q.fn = fn }

// fresh is the node of k, computed if it never was.
func (q *Query[K, V]) fresh(k K) *memo[K, V] {
	m := q.nodes[k]
	if m == nil {
		m = &memo[K, V]{k: k, q: q}
		m.table, m.owner = q.table, m
		q.nodes[k] = m
		q.table.stats.Values++
	}
	if m.state == stateNew {
		m.changed = q.table.g.batch
		m.compute()
	}
	return m
}

// Get reads the value for k within a compute function. A value that could not be computed is the
// last good one, or the zero value.
func (q *Query[K, V]) Get(r *Reader, k K) V {
	v, _ := q.Try(r, k)
	return v
}

// Try is [Query.Get] for a function that can do without: ok is false if there is no value because it
// could not be computed.
func (q *Query[K, V]) Try(r *Reader, k K) (v V, ok bool) {
	m := q.fresh(k)
	r.note(&m.Node)
	return m.v, !m.hollow()
}

// Last is the value for k that is remembered, the zero value if none is; nothing is computed and no
// read recorded. A compute function may ask for the value that it is about to replace.
func (q *Query[K, V]) Last(k K) (v V) {
	if m := q.nodes[k]; m != nil {
		v = m.v
	}
	return v
}

// Renew marks the remembered values that match as dirty, as if something that they read had changed. It
// walks all of them.
func (q *Query[K, V]) Renew(match func(V) bool) {
	for _, m := range q.nodes {
		if match(m.v) {
			q.table.g.invalidate(&m.Node)
		}
	}
}

// Pin keeps the value for k, computed, until [Cell.Unpin].
func (q *Query[K, V]) Pin(k K) *Cell[V] {
	m := q.fresh(k)
	m.pins++
	return &m.Cell
}

// Get is the last good value.
func (c *Cell[V]) Get() V { return c.v }

// OnChange sets what runs, within [Graph.Recompute], when the value changed; nil for nothing.
func (c *Cell[V]) OnChange(f func()) { c.onChange = f }

// Changed is the batch in which the value changed last.
func (c *Cell[V]) Changed() uint64 { return c.changed }

// Unpin lets the value be dropped at the end of the batch if nothing else uses it.
func (c *Cell[V]) Unpin() {
	c.pins--
	if !c.used() {
		c.table.g.loose = append(c.table.g.loose, &c.Node)
	}
}
