// Package ca is the root certificate authority of a mesh at the control plane that owns the mesh,
// global or a standalone zone: where its certificate and key are, and what it signs.
//
// The root of a builtin backend is two Secrets, certificate and key, that controller/roots creates.
// The key never leaves this control plane (package kds holds it back); zones get intermediates from
// [Sign].
//
// A provided backend names its own certificate and key. If that certificate may sign intermediates
// they are signed with it; else the pair itself is handed to the zones.
package ca
