package mesh

import (
	"fmt"
	"strings"
)

// Violation is one thing wrong with a document.
type Violation struct {
	// Field path such as "spec.to[0].default.http", or "name", or `labels["kuma.io/origin"]`.
	Field string `json:"field"`
	// Reason says what to change.
	Reason string `json:"reason"`
	// Line of the input, from 1; 0 if not known.
	Line int `json:"line,omitempty"`
}

// ValidationError is every violation of one document.
type ValidationError struct {
	Violations []Violation
}

func (e *ValidationError) Error() string {
	parts := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		parts[i] = v.Reason
		if v.Field != "" {
			parts[i] = v.Field + ": " + v.Reason
		}
		if v.Line > 0 {
			parts[i] += fmt.Sprintf(" (line %d)", v.Line)
		}
	}
	return strings.Join(parts, "; ")
}

// Add notes a violation; reason is a format.
func (e *ValidationError) Add(field, reason string, args ...any) {
	e.Violations = append(e.Violations, Violation{Field: field, Reason: fmt.Sprintf(reason, args...)})
}

// Err is e, or nil if e holds no violation.
func (e *ValidationError) Err() error {
	if e == nil || len(e.Violations) == 0 {
		return nil
	}
	return e
}

// JoinField is the path of the field name below path, which may be empty.
func JoinField(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// FieldKey is the path of the entry key of the map at path, such as labels["kuma.io/zone"].
func FieldKey(path, key string) string { return fmt.Sprintf("%s[%q]", path, key) }

// Clip shortens what a user wrote to what fits into a message.
func Clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
