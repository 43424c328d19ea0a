package xds

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
)

// node is one remembered value: an input, or the answer to a query for one key.
type node struct {
	kind *queryKind
	// key is what a value was asked for; nil of inputs.
	key func() any
	// deps are what the value was computed from; users are the nodes computed from it.
	deps  []*node
	users map[*node]struct{}
	// pins counts feeds and callers outside the graph that need the value.
	pins  int
	state nodeState
	// seen is the mark of the last recorder that noted this node.
	seen uint64
	// failure of the last compute; the value is that of the last good one. told says that it was logged.
	failure error
	// good says that there was ever a value: until then a failure leaves nothing to go on with.
	good bool
	// since is the revision at which the failure was first seen with this reason; 0 before.
	since  uint64
	reason string
	told   bool
	// compute brings the value up to date and says whether it changed; nil for inputs.
	compute func(n *node) bool
	// drop forgets the node in its table.
	drop func()
	// changed is the batch in which the value last changed.
	changed uint64
	// input is the key of an input; proxy that of a table.
	input any
	proxy mesh.Key
	// onChange runs when a pinned value changed.
	onChange func()
}

type nodeState uint8

const (
	stateNew nodeState = iota
	stateClean
	stateDirty
	stateDropped
)

// queryKind is what all nodes of one query share.
type queryKind struct {
	g     *graph
	name  string
	level int
	// computes counts calls of the compute function, failures those that did not give a value.
	computes, failures uint64
	nodes              int
}

// graph is the computation graph. One goroutine owns it.
type graph struct {
	kinds []*queryKind
	// dirty nodes by level.
	dirty [][]*node
	// loose nodes lost their last user in this batch and go at its end unless one came back.
	loose  []*node
	failed map[*node]struct{}
	mark   uint64
	batch  uint64
	// reads is how many reads are recorded: the size of the invalidation index.
	reads int
}

func newGraph() *graph { return &graph{failed: map[*node]struct{}{}} }

// newKind adds a query; its level is one above the ones added before, since a query can only read
// earlier ones.
func (g *graph) newKind(name string) *queryKind {
	k := &queryKind{g: g, name: name, level: len(g.kinds)}
	g.kinds = append(g.kinds, k)
	g.dirty = append(g.dirty, nil)
	return k
}

// reader records what a compute function reads.
type reader struct {
	g    *graph
	n    *node
	deps []*node
	mark uint64
}

func (r *reader) note(d *node) {
	if d.kind.level >= r.n.kind.level {
		panic(fmt.Sprintf("query %s reads %s, which is not below it", r.n.kind.name, d.kind.name))
	}
	if d.seen == r.mark {
		return
	}
	d.seen = r.mark
	r.deps = append(r.deps, d)
}

// invalidate marks a node for recomputation in this batch.
func (g *graph) invalidate(n *node) {
	if n.state != stateClean || n.compute == nil {
		return
	}
	n.state = stateDirty
	g.dirty[n.kind.level] = append(g.dirty[n.kind.level], n)
}

// touch says that an input changed.
func (g *graph) touch(n *node) {
	n.changed = g.batch
	for u := range n.users {
		g.invalidate(u)
	}
}

// run recomputes n and links it to what it read.
func (g *graph) run(n *node, compute func(*reader) (changed bool, err error)) bool {
	g.mark++
	r := &reader{g: g, n: n, mark: g.mark}
	n.kind.computes++
	changed, err := guarded(r, compute)
	// Nested computes moved marks: note the final set afresh.
	g.mark++
	for _, d := range r.deps {
		d.seen = g.mark
		if d.users == nil {
			d.users = map[*node]struct{}{}
		}
		d.users[n] = struct{}{}
	}
	for _, d := range n.deps {
		if d.seen != g.mark {
			g.unlink(n, d)
		}
	}
	g.reads += len(r.deps) - len(n.deps)
	n.deps = slices.Clip(r.deps)
	n.state = stateClean
	if errors.Is(err, errGone) {
		return false // an input says so, and will say when it is back
	}
	if err != nil {
		n.kind.failures++
		n.failure = err
		g.failed[n] = struct{}{}
		return false
	}
	if n.hollow() {
		changed = true // who made do without the value hears of it, even if it is empty
	}
	n.good = true
	if n.failure != nil {
		n.failure, n.told, n.since = nil, false, 0
		delete(g.failed, n)
	}
	return changed
}

// hollow says that there is no value, for it could not be computed and never was.
func (n *node) hollow() bool { return n.failure != nil && !n.good }

func guarded(r *reader, compute func(*reader) (bool, error)) (changed bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			changed, err = false, &PanicError{Query: r.n.kind.name, Value: p, Stack: debug.Stack()}
		}
	}()
	return compute(r)
}

// PanicError is a panic of a compute function: a bug, contained to the one value.
type PanicError struct {
	Query string
	Value any
	Stack []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("computing %s panicked: %v", e.Query, e.Value)
}

func (g *graph) unlink(user, dep *node) {
	delete(dep.users, user)
	if len(dep.users) == 0 && dep.pins == 0 {
		g.loose = append(g.loose, dep)
	}
}

// settle recomputes what is dirty, lowest level first, and drops what nobody uses any more.
func (g *graph) settle() {
	for level := range g.dirty {
		// A level's list can grow only from lower levels, all of which are done.
		list := g.dirty[level]
		g.dirty[level] = nil
		for _, n := range list {
			if n.state != stateDirty {
				continue
			}
			if len(n.users) == 0 && n.pins == 0 {
				g.dropNode(n)
				continue
			}
			if n.compute(n) {
				n.changed = g.batch
				for u := range n.users {
					g.invalidate(u)
				}
				if n.onChange != nil {
					n.onChange()
				}
			}
		}
	}
	for len(g.loose) > 0 {
		list := g.loose
		g.loose = nil
		for _, n := range list {
			if len(n.users) == 0 && n.pins == 0 && n.state != stateDropped {
				g.dropNode(n)
			}
		}
	}
}

// retryFailed marks failed nodes, at the begin of a batch.
func (g *graph) retryFailed() {
	for n := range g.failed {
		g.invalidate(n)
	}
}

func (g *graph) dropNode(n *node) {
	n.state = stateDropped
	n.kind.nodes--
	delete(g.failed, n)
	for _, d := range n.deps {
		g.unlink(n, d)
	}
	g.reads -= len(n.deps)
	n.deps = nil
	if n.drop != nil {
		n.drop()
	}
}

func (g *graph) pin(n *node) { n.pins++ }

func (g *graph) unpin(n *node) {
	n.pins--
	if n.pins == 0 && len(n.users) == 0 {
		g.loose = append(g.loose, n)
	}
}

// input is a table of inputs: values that are written from outside and read through a reader.
type input[K comparable] struct {
	g     *graph
	kind  *queryKind
	nodes map[K]*node
}

func newInput[K comparable](g *graph, name string) *input[K] {
	return &input[K]{g: g, kind: g.newKind(name), nodes: map[K]*node{}}
}

// note records that r reads the input at k; the caller fetches the value itself.
func (in *input[K]) note(r *reader, k K) {
	n := in.nodes[k]
	if n == nil {
		n = &node{
			kind:  in.kind,
			input: k,
			state: stateClean,
			drop:  func() { delete(in.nodes, k) },
		}
		in.nodes[k] = n
		in.kind.nodes++
	}
	r.note(n)
}

// touch says that the value at k changed.
func (in *input[K]) touch(k K) {
	if n := in.nodes[k]; n != nil {
		in.g.touch(n)
	}
}

// query is a remembered function of K.
type query[K comparable, V any] struct {
	g     *graph
	kind  *queryKind
	fn    func(r *reader, k K) (V, error)
	keep  func(old, new V) (V, bool)
	nodes map[K]*memo[V]
}

type memo[V any] struct {
	node
	value V
}

// newQuery adds a query. keep compares the old value with the new and gives the one to keep and
// whether it changed: it is where an equal result stops the propagation.
func newQuery[K comparable, V any](g *graph, name string, keep func(old, new V) (V, bool),
	fn func(*reader, K) (V, error)) *query[K, V] {
	return &query[K, V]{
		g:     g,
		kind:  g.newKind(name),
		fn:    fn,
		keep:  keep,
		nodes: map[K]*memo[V]{},
	}
}

// describe names a query's key for people.
func describe(k any) string {
	switch k := k.(type) {
	case compile.Ref:
		return k.KRI()
	case inSet:
		return k.ref.KRI()
	case clusterKey:
		return k.ref.KRI()
	case endpointsKey:
		return k.ref.KRI()
	case routesKey:
		return k.ref.KRI()
	case listenerKey:
		return k.outbound.Name
	case serviceRange:
		return fmt.Sprintf("%s port %d", k.service, k.port)
	case listedKey:
		return "outbounds listed in mesh " + k.at.Mesh
	case inboundKey:
		return "inbounds of mesh " + k.mesh
	case groupKey, keyList:
		return "of a group of proxies"
	}
	return fmt.Sprint(k)
}

func same[V comparable](old, new V) (V, bool) { return new, old != new }

// sameBy keeps the old value if equal says so.
func sameBy[V any](equal func(a, b V) bool) func(V, V) (V, bool) {
	return func(old, new V) (V, bool) {
		if equal(old, new) {
			return old, false
		}
		return new, true
	}
}

func (q *query[K, V]) node(k K) *memo[V] {
	m := q.nodes[k]
	if m != nil {
		return m
	}
	m = &memo[V]{}
	m.kind = q.kind
	m.key = func() any { return k }
	m.drop = func() { delete(q.nodes, k) }
	m.compute = func(n *node) bool {
		first := n.state == stateNew
		return q.g.run(n, func(r *reader) (bool, error) {
			v, err := q.fn(r, k)
			if err != nil {
				return false, err
			}
			var changed bool
			m.value, changed = q.keep(m.value, v)
			return changed || first, nil
		})
	}
	q.nodes[k] = m
	q.kind.nodes++
	return m
}

// fresh gives the node of k, computed.
func (q *query[K, V]) fresh(k K) *memo[V] {
	m := q.node(k)
	m.refresh()
	return m
}

// refresh computes the value if it never was.
func (m *memo[V]) refresh() {
	if m.state == stateNew {
		m.changed = m.kind.g.batch
		m.compute(&m.node)
	}
}

// try is get for a reader that can do without: ok is false if there is no value because it could
// not be computed.
func (q *query[K, V]) try(r *reader, k K) (v V, ok bool) {
	m := q.fresh(k)
	r.note(&m.node)
	return m.value, !m.hollow()
}

// get reads the value for k within a compute function.
func (q *query[K, V]) get(r *reader, k K) V {
	m := q.fresh(k)
	r.note(&m.node)
	return m.value
}

// recorded is the size of the record: reads that are kept, and the values that made or are read.
func (g *graph) recorded() (reads, values int) {
	for _, k := range g.kinds {
		values += k.nodes
	}
	return g.reads, values
}
