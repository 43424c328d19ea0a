// Package xds is the engine that turns the state of a zone into what each of its proxies should
// have, at a cost that follows the change and not the size of the mesh.
//
// # A graph with recorded reads
//
// Everything that is derived is a query of a [graph.Graph]: a remembered function of a key that
// records what it reads (package xds/graph; the keys are in keys.go, the queries in queries.go).
// Inputs are the spec of a resource, its status (apart, so that a status write concerns only what
// reads a status), a range of an index, and the identity of a proxy.
//
// A batch of changes marks inputs dirty, and what read them is computed again, each value at most
// once. A value that comes out equal stops there: a policy whose content changed still selects the
// same proxies, so their matching is not done again; a dataplane whose labels changed has the same
// address, so no endpoint moves. A policy is read in parts (policy.Part): a destination reads what is
// said of all destinations and what is said of services of its name, so that a policy with an entry for one
// service concerns no other. Queries read only those declared before them, so there can be no cycle.
// A key says what it is called in logs and what to charge when its value cannot be computed; the
// graph does not know xDS, and progress does not know the queries.
//
// Why not a pass over all proxies with caches: the cost of asking every cache for every proxy is
// what makes an endpoint change on a mesh of thousands expensive, and a cache key that forgets an
// input is a bug that no test of one change finds. Here the dependency is what was read.
//
// # Sharing
//
// Proxies with equal policies and equal outbounds meet in one group: the lists are interned and are
// the key. A group has one [delta.Segment], which all its proxies point to; a proxy's own inbounds
// and its secrets are two more. Each resource is encoded once; equal bytes keep the old pointer, so
// a push is a comparison of pointers.
//
// A MeshLoadBalancingStrategy can make a service's endpoints differ between callers: instances that
// share a tag with the caller weigh more. The values of those tags that the caller's policies name,
// and of no others, are then part of its group's key, and what they come to is part of the key of
// the endpoints (localities.go). Where no such policy names a service its endpoints are one
// resource for all, and a change of them is a change of endpoints alone everywhere.
//
// # gRPC clients
//
// A gRPC program without a proxy calls destinations by name. The names that its streams ask for are
// an input; what they mean is looked up by recorded reads, so that it is notified by what it calls and
// nothing else. What it gets is of queries of its own (calls.go), and lacks what gRPC libraries do
// not take; policies and endpoints come from the queries that all share.
//
// # Time
//
// One goroutine, [Engine.Run], owns the graph. There is no ticker and no debounce: the first change
// goes at once, and what is written meanwhile merges in the subscription of the replica. A watch
// holds one pending table.
//
// # Failure
//
// An error or a panic in one compute function keeps that value's last good one, counts, is tried
// again with the next change, and stands in [Progress] as a rejection by the control plane for each
// proxy whose table needs the value, charged to the policies that the value was made from. A change
// of policies makes new keys, of which there is no good value yet: the group then notes which
// resources it lacks, and each proxy's table keeps them as it had them. A proxy whose resource is
// gone keeps what it had until its stream ends.
//
// # Last known good
//
// What a proxy rejected and no other accepted is not offered to any (lastgood.go), so that a proxy that
// starts is not left with nothing. The answers of those that were offered the same content are waited for,
// a fifth of a second at most. Then the policy that was changed last, of those that the resource came
// from, is held: for that destination and all its callers, or for that proxy's inbounds, it is in force as it
// was before; if that is rejected too, as if it were not there; then the policy before it is held. What
// other policies say of the same destination goes on top. Where no policy can be blamed, the content is
// replaced by the one that the proxy had before. A hold costs nothing where there is none: reading a policy
// looks into a map that is empty. It ends with the next change of what it holds, and proxies try that
// again. Progress lists the rejections of a hold until then, with the number of proxies concerned.
//
// A held policy is in force with its former entries for the proxies that it selects now. Those that it no
// longer selects are not held.
//
// # Progress
//
// A watch that a batch does not wake has thereby answered it. The others owe an answer;
// [Engine.Progress] looks at those alone. What became of each of the last changes is rolled up as
// the answers come: a watch's pendingAck points to the changes it is for, so that an answer costs one
// addition per change ([Engine.Change]).
//
// # What profiles taught
//
// With 1,000 proxies that see the same 100 services, the engine is a twentieth of the CPU of a
// change; the rest is the wire: half of it gRPC's transport and TLS, a quarter the delta protocol
// of each stream. A change that reaches clusters and routes is three messages and three answers to
// each proxy (cluster, its endpoints once more, routes), and each costs what a bare gRPC message
// costs. With 10,000 services that hardly two proxies share it was the merge of policies for
// destinations that they do not name, 9,000 merges for a change for one service, until policies
// were read in parts: 54 ms came down to 0.6 ms.
//
// A proxy that reaches 30 services keeps 1,226 reads and 720 values (BenchmarkLarge, 10,000
// services). A change of endpoints there allocates 335 times, whatever the size. Two changes still
// cost with the mesh: a new policy is in the list of policies of every proxy that it selects, so
// that all they call is looked at again; and a change of a service's ports or identity makes the
// list of all services again.
//
// Policies that say something and change nothing made other tables with the same content, 44 of 100
// wake-ups in random changes: [Engine] compares contents before it wakes.
package xds
