// Package kdstest runs package kds without network and clock: a [World] of one global and some
// zones, each with a store in memory, joined by wires on which every frame is delivered by hand.
// Scripts (kds/testdata) and the simulation use it.
//
// # Promises
//
// After every step a World checks what package kds promises, and fails with the promise's name:
//
//   - ordered: a Sink's revision never goes back while the sender's store is the same;
//   - unique: a delta brings nothing that the Sink already had durable;
//   - atomic: after every transaction the copies equal what the View shows of one revision of the
//     owner's store, never a mix of two;
//   - resumable: what a wire lost in a cut is made up for, which [World.Converged] checks at the end;
//   - bounded: bytes in flight exceed the window by one frame at most, and there are no more pending
//     keys than keys.
package kdstest
