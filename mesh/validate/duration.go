package validate

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
)

// maxDuration is what every proxy can count with, ten years: Envoy refuses, and in places dies of,
// what comes near the largest of its clock.
const maxDuration = 87600 * time.Hour

// durations refuses those that are too long, wherever they are below m.
func (c *check) durations(path string, m protoreflect.Message) {
	if d, ok := m.Interface().(*durationpb.Duration); ok {
		if d.AsDuration() > maxDuration {
			c.add(path, "must be at most 87600h")
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := mesh.JoinField(path, fd.JSONName())
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				c.durations(fmt.Sprintf("%s[%d]", at, i), v.List().Get(i).Message())
			}
		default:
			c.durations(at, v.Message())
		}
		return true
	})
}
