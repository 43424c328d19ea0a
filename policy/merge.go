package policy

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
)

// Origin says where a value comes from.
type Origin struct {
	Key mesh.Key
	// Rule is the index in "to", "from" or "rules".
	Rule int
}

// Effective is the merged configuration of one kind for one thing.
type Effective struct {
	// Conf is nil if no policy says anything. It shares leaves with the policies: do not change it.
	Conf proto.Message
	// Origins are the entries that were merged, by ascending priority.
	Origins []Origin
	// Fields says of each leaf who set it, by its YAML path below "default", such as "http.requestTimeout".
	Fields map[string]Origin
}

// Merge merges src over dst, which must be of the same type: messages recurse; durations,
// int-or-strings, lists and scalars that are set in src replace; maps merge key by key; lists whose
// name begins with "append" are concatenated. What src does not set stays. src is never changed,
// and dst may share its lists and leaves afterwards.
func Merge(dst, src proto.Message) {
	merge(dst.ProtoReflect(), src.ProtoReflect(), "", nil)
}

// isLeaf says that a message is one value to a user.
func isLeaf(d protoreflect.MessageDescriptor) bool {
	switch d.FullName() {
	case "google.protobuf.Duration", "google.protobuf.Timestamp", "meridian.mesh.v1alpha1.IntOrString":
		return true
	}
	return false
}

// merge notes each leaf it sets, if note is given. path ends with a dot or is empty.
func merge(dst, src protoreflect.Message, path string, note func(path string)) {
	src.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := path + fd.JSONName()
		switch {
		case fd.IsMap():
			m := dst.Mutable(fd).Map()
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				m.Set(k, v)
				if note != nil {
					note(name + "[" + k.String() + "]")
				}
				return true
			})
			return true
		case fd.IsList():
			if strings.HasPrefix(string(fd.Name()), "append") && dst.Has(fd) {
				joined := dst.NewField(fd).List()
				for _, l := range []protoreflect.List{dst.Get(fd).List(), v.List()} {
					for i := range l.Len() {
						joined.Append(l.Get(i))
					}
				}
				v = protoreflect.ValueOfList(joined)
			}
			dst.Set(fd, v)
		case fd.Message() != nil && !isLeaf(fd.Message()):
			merge(dst.Mutable(fd).Message(), v.Message(), name+".", note)
			return true
		default:
			dst.Set(fd, v)
		}
		if note != nil {
			note(name)
		}
		return true
	})
}

// add merges one entry over e.
func (e *Effective) add(conf proto.Message, origin Origin) {
	if conf == nil {
		return
	}
	if e.Conf == nil {
		e.Conf = conf.ProtoReflect().New().Interface()
		e.Fields = make(map[string]Origin)
	}
	e.Origins = append(e.Origins, origin)
	merge(e.Conf.ProtoReflect(), conf.ProtoReflect(), "", func(path string) { e.Fields[path] = origin })
}

// clear unsets a field of the merged conf, with all below it, as if no policy had set it.
func (e *Effective) clear(field string) {
	if e.Conf == nil {
		return
	}
	m := e.Conf.ProtoReflect()
	m.Clear(m.Descriptor().Fields().ByJSONName(field))
	for path := range e.Fields {
		if path == field || strings.HasPrefix(path, field+".") {
			delete(e.Fields, path)
		}
	}
}
