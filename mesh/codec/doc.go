// Package codec reads and writes resources as documents: YAML and JSON, in Universal and in
// Kubernetes form, several to a stream.
//
// [Decode] is strict: an unknown field is a violation with its path, its line and the nearest known
// name. What public guides write otherwise than the schema says is read all the same, with a
// warning, and so are documents of the older policy model that have a translation. A document's
// violations are reported together, as a [mesh.ValidationError].
//
// The codec checks form, not meaning: what decodes may still be invalid. What is admitted to a
// store goes through [github.com/meridian-mesh/meridian/mesh/validate.Resource] as well. The two
// are apart so that the launcher of a proxy, which sends what it read to a zone that validates it,
// links no rules.
//
// [Encode] writes the Universal form as users write it; [EncodeKubernetes] writes the other. Both
// walk the descriptor of the kind's message, so a new field needs no code here.
package codec
