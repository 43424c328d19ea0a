package delta

import "iter"

// item is a resource as one client knows it.
type item struct {
	// held is what the client was sent last: nil if nothing that it can be assumed to have, absent,
	// or the resource. Of what the client held before it connected only the version is known.
	held *Resource
	// inFlight is the response that brings it and that the client has not answered. A name is in one
	// such at a time.
	inFlight *response
	// named says that the client subscribed to this name, not only to all.
	named bool
	// forgotten stands in a record for a name of its base that the client does not know.
	forgotten bool
}

// absent stands for "the client was told that there is none".
var absent = &Resource{}

// record is what one client knows of the names of a type. Nearly all clients know nearly always just
// what their table says, so a record is that table, which is shared, and the names for which it does
// not hold. A record without a base is a plain map.
type record struct {
	typ Type
	// base is what the client holds of each name that is not in own, with named for all of them.
	base  *Table
	named bool
	own   map[string]item
}

// get is what the client knows of a name; false if it does not know it.
func (r *record) get(name string) (item, bool) {
	it, ok := r.own[name]
	switch {
	case !ok:
		return r.implied(name)
	case it.forgotten:
		return item{}, false
	}
	return it, true
}

// implied is what the base says of a name.
func (r *record) implied(name string) (item, bool) {
	if res := r.base.Lookup(r.typ, name); res != nil {
		return item{held: res, named: r.named}, true
	}
	return item{}, false
}

// set may leave in own what the base says too, until the next rebase.
func (r *record) set(name string, it item) {
	if r.own == nil {
		r.own = map[string]item{}
	}
	r.own[name] = it
}

// reserve makes room for n names.
func (r *record) reserve(n int) {
	if len(r.own) == 0 {
		r.own = make(map[string]item, n)
	}
}

func (r *record) remove(name string) {
	if _, ok := r.implied(name); ok {
		r.set(name, item{forgotten: true})
		return
	}
	delete(r.own, name)
}

// all is every name that the client knows, in no order. Names may be set and removed meanwhile.
func (r *record) all() iter.Seq2[string, item] {
	return func(yield func(string, item) bool) {
		for name, it := range r.own {
			if !it.forgotten && !yield(name, it) {
				return
			}
		}
		for res := range r.base.All(r.typ) {
			if _, ok := r.own[res.Name]; ok {
				continue
			}
			if !yield(res.Name, item{held: res, named: r.named}) {
				return
			}
		}
	}
}

// rebase makes a table the base if that leaves less in own. It changes nothing of what the record
// says. It costs what differs between the two bases, and own.
func (r *record) rebase(t *Table, named bool) {
	if r.base == t && len(r.own) == 0 {
		return
	}
	if r.base != nil && r.named != named {
		r.flatten()
	}

	next := record{typ: r.typ, base: t, named: named}
	keep := func(name string) {
		it, ok := r.get(name)
		if !ok {
			next.remove(name)
		} else if have, ok := next.implied(name); !ok || have != it {
			next.set(name, it)
		}
	}
	if r.base == nil {
		if t.count(r.typ) > 2*len(r.own) {
			return // the client knows a part of the table
		}
		for res := range t.All(r.typ) {
			if r.own[res.Name] != (item{held: res, named: named}) {
				keep(res.Name)
			}
		}
		for name := range r.own {
			if t.Lookup(r.typ, name) == nil {
				keep(name)
			}
		}
	} else {
		step := t.Diff(r.base)
		if r.says(step.Changed[r.typ], named) && len(step.Removed[r.typ]) == 0 {
			r.clear(t, named)
			return
		}
		for name := range r.own {
			keep(name)
		}
		for _, res := range step.Changed[r.typ] {
			keep(res.Name)
		}
		for _, name := range step.Removed[r.typ] {
			keep(name)
		}
	}
	switch {
	case len(next.own) == 0:
		r.clear(t, named)
	case len(next.own) <= len(r.own):
		*r = next
	}
}

// says says that own is these resources and nothing else. It is the usual case, and looks nothing up
// in a table.
func (r *record) says(list []*Resource, named bool) bool {
	if len(list) != len(r.own) {
		return false
	}
	for _, res := range list {
		if r.own[res.Name] != (item{held: res, named: named}) {
			return false
		}
	}
	return true
}

// clear makes a table all that the record says.
func (r *record) clear(t *Table, named bool) {
	if len(r.own) > manyUpserts {
		r.own = nil // a map does not shrink
	}
	clear(r.own)
	r.base, r.named = t, named
}

// flatten makes the record a plain map.
func (r *record) flatten() {
	own := map[string]item{}
	for name, it := range r.all() {
		own[name] = it
	}
	r.base, r.own = nil, own
}
