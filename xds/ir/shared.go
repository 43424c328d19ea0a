package ir

import "github.com/meridian-mesh/meridian/internal/intern"

// Shared is what a policy says that is more than scalars, made comparable: two are == if their
// values are equal. The zero Shared is none.
type Shared[T any] = intern.Value[T]

// Share makes a value comparable. It copies the value.
func Share[T any](v T) Shared[T] { return intern.Make(v) }
