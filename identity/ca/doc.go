// Package ca is what comes with a mesh at the control plane that owns it, global or a standalone
// zone: its default policies, its proxies' token key, and its root certificate authority.
//
// # Defaults
//
// [Defaults] are the operations that go into the transaction that creates a Mesh, so that a mesh
// without its defaults is never seen. They are ordinary policies that people may change or delete;
// they are not made again. The label kuma.io/managed-by=meridian-defaults ranks them below
// everything that a person wrote.
//
// # Root
//
// [Reconciler] makes the root of a mesh once, when a builtin backend is enabled: two Secrets,
// certificate and key. The key never leaves this control plane (package kds holds it back); zones
// get intermediates from [Sign]. A root is never made anew while its certificate or its key exists,
// and half a root is reported instead of replaced.
//
// A provided backend names its own certificate and key. If that certificate may sign intermediates
// they are signed with it; else the pair itself is handed to the zones.
package ca
