// Package roots creates the root certificate authorities of meshes, at the control plane that owns them:
// global or a standalone zone.
//
// [Reconciler] creates the root of a mesh once, when a builtin backend is enabled (package
// identity/ca says what it is). A root is never replaced while its certificate or its key exists,
// and half a root is reported instead of replaced.
//
// No example: it runs on a store and its replica.
package roots
