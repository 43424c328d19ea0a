// Package adminjson writes messages of the management API as JSON for people and shells: GET
// /status, "delivery" of a write, and meridian status -o json are the same text. It differs from
// protojson in what a shell stumbles over: 64-bit numbers are JSON numbers, durations are Go's
// ("1.5s"), enums are words in CamelCase ("Online"), and plain fields are written even when they are
// zero. Messages that are not set are left out. Fields keep the order of their numbers. It is pure.
package adminjson

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Marshal writes m on one line. It fails on text that is not UTF-8 and on numbers that JSON has not (NaN).
func Marshal(m proto.Message) ([]byte, error) {
	var b bytes.Buffer
	if err := message(&b, m.ProtoReflect()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func message(b *bytes.Buffer, m protoreflect.Message) error {
	switch known := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return value(b, known.AsTime().UTC().Format(time.RFC3339Nano))
	case *durationpb.Duration:
		return value(b, known.AsDuration().String())
	}
	b.WriteByte('{')
	first := true
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.HasPresence() && !m.Has(f) {
			continue
		}
		if !first {
			b.WriteByte(',')
		}
		first = false
		if err := value(b, f.JSONName()); err != nil {
			return err
		}
		b.WriteByte(':')
		if err := field(b, f, m.Get(f)); err != nil {
			return fmt.Errorf("%s: %w", f.JSONName(), err)
		}
	}
	b.WriteByte('}')
	return nil
}

func field(b *bytes.Buffer, f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case f.IsList():
		b.WriteByte('[')
		for i := range v.List().Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := single(b, f, v.List().Get(i)); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case f.IsMap():
		var keys []protoreflect.MapKey
		v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
			keys = append(keys, k)
			return true
		})
		slices.SortFunc(keys,
			func(x, y protoreflect.MapKey) int {
				return bytes.Compare([]byte(x.String()), []byte(y.String()))
			})
		b.WriteByte('{')
		for i, k := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := value(b, k.String()); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := single(b, f.MapValue(), v.Map().Get(k)); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	}
	return single(b, f, v)
}

func single(b *bytes.Buffer, f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return message(b, v.Message())
	case protoreflect.EnumKind:
		return value(b, name(f.Enum(), v.Enum()))
	case protoreflect.BytesKind:
		return value(b, base64.StdEncoding.EncodeToString(v.Bytes()))
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		if math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0) {
			return fmt.Errorf("%v is not a JSON number", v.Float())
		}
	}
	return value(b, v.Interface())
}

// Name is an enum's value as JSON has it: its name without the prefix of the enum, in CamelCase;
// empty for the value that means that none is set.
func Name(e protoreflect.Enum) string { return name(e.Descriptor(), e.Number()) }

func name(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	if n == 0 {
		return ""
	}
	d := e.Values().ByNumber(n)
	if d == nil {
		return fmt.Sprint(n)
	}
	prefix := snake(string(e.Name())) + "_"
	var out strings.Builder
	for word := range strings.SplitSeq(strings.TrimPrefix(string(d.Name()), prefix), "_") {
		out.WriteString(word[:1] + strings.ToLower(word[1:]))
	}
	return out.String()
}

// snake is ZONE_STATE for ZoneState.
func snake(camel string) string {
	var out strings.Builder
	for i, r := range camel {
		if i > 0 && unicode.IsUpper(r) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToUpper(r))
	}
	return out.String()
}

func value(b *bytes.Buffer, v any) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the encoder's new line
	return nil
}
