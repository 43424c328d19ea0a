package store

// RevisionState says whether a part of the control plane knows what became of a revision.
type RevisionState uint8

// States of a revision.
const (
	// RevisionKnown: what became of it is known.
	RevisionKnown RevisionState = iota
	// RevisionAhead: it has not been taken in yet, or does not exist.
	RevisionAhead
	// RevisionForgotten: it came with a snapshot, before the start, or too long ago.
	RevisionForgotten
	// RevisionElsewhere: it is known, and changed nothing here.
	RevisionElsewhere
)

var revisionStates = [...]string{"known", "ahead", "forgotten", "elsewhere"}

// String is one word.
func (s RevisionState) String() string { return revisionStates[s] }
