// Package mesh is the resource model: kinds, keys, labels, resources, and how a violation is
// described. It is pure: no I/O, no clock, no goroutine, and it needs neither the codec nor the
// validator, so that a small program can hold resources without them.
//
// # Model
//
// A [Resource] is a [Key], labels, a spec and perhaps a status. Its spec is the kind's protobuf
// message of proto/meridian/mesh/v1alpha1; there is no second model beside it. [Kinds] is the one
// literal table of kinds: scope, spelling, which way a kind is synced, who may write it. Nothing
// registers itself.
//
// # Identity and ownership
//
// A key is (kind, mesh, origin zone, namespace, name). The origin zone is the one writer: empty is
// global. Names are the same on every control plane; two zones' services of one name differ by
// their origin zone alone. On a standalone zone (no global) the kinds that only global may create
// have an empty zone too, and all others carry the zone's name.
//
// # Immutability
//
// A Resource that a store or a replica handed out, its labels and its messages are shared and must
// not be changed. Use [Resource.Clone] to get one that may be.
//
// # Packages below
//
// mesh/codec reads and writes documents, mesh/validate has the rules, mesh/hostname renders the
// templates of HostnameGenerators.
package mesh
