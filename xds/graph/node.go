package graph

import (
	"fmt"
	"iter"
)

// Key is what a value is asked for. Dynamic types are comparable.
type Key interface{ fmt.Stringer }

// Node is one remembered value: an input, or the result of a query for one key.
type Node struct {
	table *table
	owner owner
	// deps are what the value was computed from; users are the nodes computed from it.
	deps  []*Node
	users map[*Node]struct{}
	// pins counts those outside the graph that need the value.
	pins  int
	state nodeState
	// good says that there was ever a value: until then a failure leaves nothing to go on with.
	good bool
	// mark is that of the last recorder that noted this node.
	mark uint64
	// failure of the last compute; the value is that of the last good one.
	failure error
	// changed is the batch in which the value last changed.
	changed uint64
	// onChange runs when a pinned value changed.
	onChange func()
}

// owner is the typed rest of a node.
type owner interface {
	key() Key
	// value is the last good one; nil for an input.
	value() any
	// compute brings the value up to date and says whether it changed.
	compute() bool
	// forget removes the node from its table.
	forget()
}

type nodeState uint8

const (
	stateNew nodeState = iota
	stateClean
	stateDirty
	stateDropped
	// stateInput nodes are never computed.
	stateInput
)

// Query is the name of the query, or of the table of inputs, that the node belongs to.
func (n *Node) Query() string { return n.table.name }

// Key is what the value was asked for.
func (n *Node) Key() Key { return n.owner.key() }

// Value is the last good value, the zero value if there was none, and nil for an input.
func (n *Node) Value() any { return n.owner.value() }

// IsInput says that the node is an input.
func (n *Node) IsInput() bool { return n.state == stateInput }

// Err is why the last compute failed; nil if it did not.
func (n *Node) Err() error { return n.failure }

// Pinned says that the value is needed outside the graph.
func (n *Node) Pinned() bool { return n.pins > 0 }

// Reads are the nodes that the value was computed from, in the order of reading.
func (n *Node) Reads() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		for _, d := range n.deps {
			if !yield(d) {
				return
			}
		}
	}
}

// Dependents are the node itself and all that were computed from it, directly or not, in no order.
func (n *Node) Dependents() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		seen := map[*Node]bool{n: true}
		for todo := []*Node{n}; len(todo) > 0; {
			u := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if !yield(u) {
				return
			}
			for w := range u.users {
				if !seen[w] {
					seen[w] = true
					todo = append(todo, w)
				}
			}
		}
	}
}

func (n *Node) used() bool { return len(n.users) > 0 || n.pins > 0 }

// hollow says that there is no value, for it could not be computed and never was.
func (n *Node) hollow() bool { return n.failure != nil && !n.good }

// Reader records what a compute function reads.
type Reader struct {
	g    *Graph
	n    *Node
	deps []*Node
	mark uint64
}

func (r *Reader) note(d *Node) {
	if d.table.level >= r.n.table.level {
		panic(fmt.Sprintf("query %s reads %s, which is not below it", r.n.table.name, d.table.name))
	}
	if d.mark == r.mark {
		return
	}
	d.mark = r.mark
	r.deps = append(r.deps, d)
}

// once is the owner of the node of [Graph.Ask].
type once struct {
	node Node
	k    Key
}

func (o *once) key() Key      { return o.k }
func (o *once) value() any    { return nil }
func (o *once) compute() bool { return false }
func (o *once) forget()       {}
