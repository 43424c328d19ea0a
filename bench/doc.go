// Package bench measures the xDS engine of a zone against stand-in sidecars: what "meridian bench xds" runs.
//
// One process holds the real parts: store, replica, engine, incremental ADS server, TLS on a
// loopback socket. The sidecars ([Sidecars]) run in a process of their own, so that their cost is
// not counted as the control plane's. Both share the machine's cores all the same; therefore every
// run also measures the floor: as many bare gRPC streams over the same TLS to the same process,
// pushed the same number of bytes each, one small answer back. What matters is the ratio.
//
// A round is one commit; it ends when the last sidecar that it affects has acknowledged it. Bytes
// are counted where they arrive, computations by the engine's own metrics.
//
// No example: a run needs a process of its own and takes minutes; "meridian bench xds" is one.
package bench
