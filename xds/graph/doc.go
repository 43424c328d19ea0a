// Package graph is an incremental computation: values derived from inputs and from each other, of
// which a batch of changes recomputes only what it concerns. It knows nothing of what the values
// are; package xds derives the configuration of proxies with it.
//
// # Inputs and queries
//
// An [Input] is a table of values that are written outside. A [Query] is a function of a key whose
// results are remembered. It reads inputs and other queries only through its [Reader], which records
// each read; that record is the invalidation index. Dependencies are not declared by hand, and so
// none is forgotten: a cache key that lacks an input is a fault that no test of one change finds.
//
// Keys are comparable and have a String, which is how they stand in logs and errors; what else a
// user of the package needs to know of a value it finds by asserting an interface of its own on
// [Node.Key].
//
// # A batch
//
// [Graph.Begin] starts it. [Input.MarkDirty] says that an input changed: all that read it is dirty.
// [Graph.Recompute] computes what is dirty, from low to high levels, so that each value is computed
// at most once. A value that comes out equal stops there: what read it stays clean. "Equal" is what
// the query's keep function says, which also chooses whether the old value or the new one is kept.
//
// Levels are static: a query is one level above the query declared before it and may read only what
// is below it. So there can be no cycle, and a read that would make one panics.
//
// # Life of a value
//
// A value is computed when it is read or pinned for the first time. It lives as long as a value that
// read it, or a pin ([Query.Pin]), and is dropped at the end of the batch in which the last of them
// goes. A value that is dropped by one reader and read by another in the same batch stays.
//
// # Failure
//
// An error or a panic ([PanicError]) of one function keeps that value's last good one and concerns
// no other. It is tried again with each batch and is one of [Graph.Failed] until it succeeds. Of a
// value that was never computed there is no good one: [Query.Try] tells it from an empty value.
// [ErrKeep] keeps the last value and is not a failure.
//
// # Cost
//
// A batch costs what it recomputes, and a walk over the failed values; what it does not touch costs
// nothing. A value costs its record of reads twice, once in each direction.
//
// One goroutine owns a graph with all its inputs, queries and cells.
package graph
