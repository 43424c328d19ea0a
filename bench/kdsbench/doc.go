// Package kdsbench measures the sync between global and zones with real processes: one global
// control plane, many zones connected to it, and stand-in sidecars in two of them.
//
// # What is measured
//
// The zones with sidecars reach global through a [wire], which counts bytes in both directions with
// everything that TLS and HTTP/2 add. The other zones are there for their number: what they cost
// global at rest, how long a policy takes to all of them, and how long all need to be back after
// global was killed. A zone has a policy when a watch on its API shows it.
//
// Nothing of the program under test is linked: an older one can be measured by its path, as long as
// it has the same flags, the REST API, tokens and watches.
//
// No example: it needs the built program and minutes.
package kdsbench
