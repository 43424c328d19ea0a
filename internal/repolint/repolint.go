// Package repolint holds the rules of this repository as tests, each with its reason. It has no
// code of its own: run `go test ./internal/repolint`.
//
// Most rules read source text, not builds, so that they hold for files of every platform. The rules
// on what a program links ask `go list -deps`, because only the build knows what a dependency brings
// along. When a rule is in the way, change the rule with a reason, or change the code: there are no
// exceptions for single lines.
//
// Each rule has a file: layers (which package may import which), deps (what a program links), pure
// (no clock, no I/O), sizes, words, citations, examples, tests, names.
package repolint
