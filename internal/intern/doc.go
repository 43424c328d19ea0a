// Package intern makes values comparable by content: equal values become one, so that they can be
// compared with == and be part of a map's key. It is what package unique does for comparable types,
// for values that are not: a [Value] holds data with slices, maps and pointers, a [List] a list of
// comparable elements. A [Pool] keeps one object for a key.
//
// Values are kept as they are, never as text, so no content is lost or mistaken for a separator.
// They are copied when they come in and must not be changed afterwards.
//
// # Life
//
// There is one table for the process, as in package unique: interned values of different parts of a
// program must compare. It holds its values weakly, and a value that is not referenced is removed
// from it. The table has no content that outlives its users and needs no owner.
//
// # Cost
//
// Making a value hashes it and compares it with those of the same hash: time in proportion to its
// size, by reflection for a Value and without for a List. Comparing, copying and hashing a handle is
// that of a pointer.
package intern
