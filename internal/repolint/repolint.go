// Package repolint holds the rules of this repository as tests, each with its reason. It has no
// code of its own: run `go test ./internal/house`.
//
// The rules read source text, not builds, so that they hold for files of every platform and need no
// network. When a rule is in the way, change the rule with a reason or the code; there are no
// per-line exceptions.
package repolint
