// Package roots creates what comes with a mesh at the control plane that owns it, global or a
// standalone zone: its default policies, its proxies' token key, and its root certificate authority.
//
// # Defaults
//
// [Defaults] are the operations that go into the transaction that creates a Mesh, so that a mesh
// without its defaults is never seen. They are ordinary policies that people may change or delete;
// they are not created a second time. The label kuma.io/managed-by=meridian-defaults ranks them
// below everything that a person wrote.
//
// # Root
//
// [Reconciler] creates the root of a mesh once, when a builtin backend is enabled (package
// identity/ca says what it is). A root is never replaced while its certificate or its key exists,
// and half a root is reported instead of replaced.
package roots
