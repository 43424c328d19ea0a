package codec

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// EncodeMessage gives a message in the users' spelling: fields in their order of declaration, those
// that are not set left out. Numbers of 64 bits are numbers, durations are Go's ("1.5s"), times are
// RFC 3339, bytes are base64, and enums are words ("Online").
func EncodeMessage(m proto.Message) *Object { return encoder{}.message(m.ProtoReflect()) }

// MarshalAnswer writes an answer of the management API as JSON on one line, spelled as EncodeMessage
// does, for people and shells: GET /status and meridian status -o json are the same text. Plain fields
// are written even when they are zero, so that a shell need not tell absent from zero; messages that
// are not set are left out. It fails on numbers that JSON does not have (NaN).
func MarshalAnswer(m proto.Message) ([]byte, error) {
	return encoder{zeros: true}.message(m.ProtoReflect()).MarshalJSON()
}

// encoder walks messages.
type encoder struct {
	// zeros writes fields without presence that have no value, too.
	zeros bool
}

func (e encoder) message(m protoreflect.Message) *Object {
	o := &Object{}
	e.fields(o, m)
	return o
}

// fields adds those of m.
func (e encoder) fields(o *Object, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if m.Has(fd) || e.zeros && !fd.HasPresence() {
			o.Set(fd.JSONName(), e.field(fd, m.Get(fd)))
		}
	}
}

func (e encoder) field(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case fd.IsList():
		out := make([]any, v.List().Len())
		for i := range out {
			out[i] = e.value(fd, v.List().Get(i))
		}
		return out
	case fd.IsMap():
		values := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			values[k.String()] = e.value(fd.MapValue(), v)
			return true
		})
		o := &Object{}
		for _, k := range slices.Sorted(maps.Keys(values)) {
			o.Set(k, values[k])
		}
		return o
	}
	return e.value(fd, v)
}

func (e encoder) value(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *durationpb.Duration:
			return m.AsDuration().String()
		case *timestamppb.Timestamp:
			return formatTime(m.AsTime())
		case *meshv1.IntOrString:
			if s, ok := m.GetValue().(*meshv1.IntOrString_StringValue); ok {
				return s.StringValue
			}
			return json.Number(fmt.Sprint(m.GetIntValue()))
		}
		return e.message(v.Message())
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.BoolKind:
		return v.Bool()
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes())
	case protoreflect.EnumKind:
		return enumName(fd.Enum(), v.Enum())
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return v.Float()
	}
	return json.Number(fmt.Sprint(v.Interface()))
}

// EnumName is an enum's value in the users' spelling: its name without the prefix of the enum, in
// CamelCase; empty for the value that means that none is set.
func EnumName(e protoreflect.Enum) string { return enumName(e.Descriptor(), e.Number()) }

// EnumWord is an enum's value as flags, paths and tables spell it: its name without the prefix of the
// enum, in lower case ("config_dump"); empty for the value that means that none is set.
func EnumWord(e protoreflect.Enum) string {
	if e.Number() == 0 {
		return ""
	}
	v := e.Descriptor().Values().ByNumber(e.Number())
	if v == nil {
		return fmt.Sprint(e.Number())
	}
	return enumWord(v)
}

func enumWord(v protoreflect.EnumValueDescriptor) string {
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), upperSnake(string(v.Parent().Name()))+"_"))
}

// EnumWords are the words of all values of an enum but the one that means that none is set, in the
// order of the enum.
func EnumWords(d protoreflect.EnumDescriptor) []string {
	var out []string
	for i := range d.Values().Len() {
		if v := d.Values().Get(i); v.Number() != 0 {
			out = append(out, enumWord(v))
		}
	}
	return out
}

// ParseEnumWord is the value of the word that [EnumWord] gives; the empty word is the value 0. It is
// false for other words.
func ParseEnumWord[E interface {
	~int32
	protoreflect.Enum
}](word string) (E, bool) {
	var zero E
	if word == "" {
		return zero, true
	}
	values := zero.Descriptor().Values()
	for i := range values.Len() {
		if v := values.Get(i); v.Number() != 0 && enumWord(v) == word {
			return E(v.Number()), true
		}
	}
	return zero, false
}

func enumName(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	if n == 0 {
		return ""
	}
	d := e.Values().ByNumber(n)
	if d == nil {
		return fmt.Sprint(n)
	}
	prefix := upperSnake(string(e.Name())) + "_"
	var out strings.Builder
	for word := range strings.SplitSeq(strings.TrimPrefix(string(d.Name()), prefix), "_") {
		out.WriteString(word[:1] + strings.ToLower(word[1:]))
	}
	return out.String()
}

// upperSnake is ZONE_STATE for ZoneState.
func upperSnake(camel string) string {
	var out strings.Builder
	for i, r := range camel {
		if i > 0 && unicode.IsUpper(r) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToUpper(r))
	}
	return out.String()
}
