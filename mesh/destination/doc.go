// Package destination has one row for each kind of resource that a workload can send traffic to.
//
// # The table
//
// [Kinds] is the table and [Lookup] finds a row. Whatever differs between kinds of destination is a
// field of [Info], so that the engine, the services controller, inspection, the API and policies walk
// the table and name no kind. The fields answer these questions:
//
//   - Which ports does it have (Ports), and which certificates may stand behind them (SANs)?
//   - Where are its endpoints (Source): proxies of the owner's zone, the destinations it combines
//     (Members, MemberSelector), or addresses that its spec gives?
//   - By which name does it travel between zones (SNI)?
//   - Which addresses and hostnames does it get (Prefix, GeneratorSelector)?
//   - Who may refer to it, and how (CrossZone, TargetByName)?
//   - What do people look for first (Columns, Values)?
//
// # A new kind
//
// A MeshExternalService is a row with the source [Given]: its endpoints and SANs are in the spec, and
// its owner is global. Traffic that leaves through a zone egress does not change the row: it is a way
// to reach endpoints of another zone, or given ones. The file of a kind has its name in lower case.
//
// The package is pure: rows hold functions of a resource and keep no state.
package destination
