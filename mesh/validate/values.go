package validate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
)

// maxDuration is what every proxy can count with, ten years: Envoy refuses, and in places dies of,
// what comes near the largest of its clock.
const maxDuration = 87600 * time.Hour

// Envoy counts many durations in milliseconds, so that a shorter one is none. minPeriod is the shortest
// time between two checks or sweeps, which cost each proxy.
const (
	minDuration = time.Millisecond
	minPeriod   = 100 * time.Millisecond
)

// values refuses durations that are too long or too short and items that are not among the words of
// their list, wherever they are below m.
func (c *check) values(path string, m protoreflect.Message) {
	if d, ok := m.Interface().(*durationpb.Duration); ok {
		switch v := d.AsDuration(); {
		case v > maxDuration:
			c.add(path, "must be at most 87600h")
		case v > 0 && v < minDuration:
			c.add(path, "must be at least 1ms: Envoy counts in milliseconds")
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := mesh.JoinField(path, fd.JSONName())
		switch {
		case fd.IsList() && fd.Message() == nil:
			c.words(at, fd, v.List())
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				c.values(fmt.Sprintf("%s[%d]", at, i), v.List().Get(i).Message())
			}
		default:
			c.values(at, v.Message())
		}
		return true
	})
}

func (c *check) words(path string, fd protoreflect.FieldDescriptor, list protoreflect.List) {
	options := mesh.DocumentOptions(fd)
	if len(options.GetWords()) == 0 {
		return
	}
	known := strings.Join(options.GetWords(), ", ")
	for i := range list.Len() {
		item, at := list.Get(i).String(), fmt.Sprintf("%s[%d]", path, i)
		switch {
		case slices.Contains(options.GetWords(), item):
		case !options.GetStatusCodes():
			c.add(at, "must be one of %s", known)
		case !mesh.IsStatusCode(item):
			c.add(at, "must be a status code of HTTP in quotes or one of %s", known)
		}
	}
}
