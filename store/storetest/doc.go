// Package storetest is the conformance suite of package store: every implementation runs all of it.
//
// # Promises
//
// [Run] checks that revisions are dense and ordered, that a transaction is seen whole or not at
// all, that watches deliver every commit once and can be resumed anywhere, that writes of nothing
// change nothing, that checks hold at the place of the commit (no lost update among many writers),
// that a snapshot equals the folded watch, that compaction is announced and never touches current
// state, and that a reopened store is the same store. A random history runs against a plain model.
// [BenchmarkCommit32Writers] measures committed changes per second.
//
// # Use
//
// A [Factory] opens a fresh store for a test, and may say how to reopen it.
//
// No example: [Run] needs a *testing.T; the tests of store/embedded call it.
package storetest
