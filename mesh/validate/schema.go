package validate

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
)

// schema is the one validator of schema rules. It compiles the rules of a message when it first
// sees one, so it is made when it is first needed and shared from then on; it is safe for
// concurrent use.
var schema = sync.OnceValues(func() (protovalidate.Validator, error) { return protovalidate.New() })

// checkSchema adds what m's annotations refuse, with paths in the users' spelling below prefix.
func (c *check) checkSchema(prefix string, m proto.Message) {
	v, err := schema()
	if err == nil {
		err = v.Validate(m)
	}
	var ve *protovalidate.ValidationError
	if !errors.As(err, &ve) {
		if err != nil { // rules that do not compile: a bug, which must not let anything pass
			c.add(prefix, "cannot be checked: %v", err)
		}
		return
	}
	for _, violation := range ve.Violations {
		c.add(mesh.JoinField(prefix, schemaPath(m.ProtoReflect().Descriptor(), violation)), "%s",
			schemaReason(violation))
	}
}

// integers are the bounds in protovalidate's words.
var integers = regexp.MustCompile(`[0-9]+`)

func schemaPath(md protoreflect.MessageDescriptor, v *protovalidate.Violation) string {
	var path string
	for _, e := range v.Proto.GetField().GetElements() {
		name := e.GetFieldName()
		if md != nil {
			fd := md.Fields().ByNumber(protoreflect.FieldNumber(e.GetFieldNumber()))
			md = nil
			if fd != nil {
				name = fd.JSONName()
				if fd.IsMap() {
					fd = fd.MapValue()
				}
				md = fd.Message()
			}
		}
		path = mesh.JoinField(path, name)
		switch {
		case e.HasStringKey():
			path = mesh.FieldKey(path, e.GetStringKey())
		case e.HasIndex():
			path += fmt.Sprintf("[%d]", e.GetIndex())
		}
	}
	return path
}

// schemaReason words a rule for users.
func schemaReason(v *protovalidate.Violation) string {
	rule := v.Proto.GetRuleId()
	_, rule, _ = strings.Cut(rule, ".")
	if v.Proto.GetRuleId() == "required" {
		return "is required"
	}
	unset := v.FieldValue.IsValid() && v.FieldDescriptor != nil &&
		v.FieldDescriptor.Kind() == protoreflect.StringKind &&
		!v.FieldDescriptor.IsMap() && v.FieldValue.Interface() == ""
	switch rule {
	case "in":
		if l, ok := v.RuleValue.Interface().(protoreflect.List); ok {
			var known []string
			for i := range l.Len() {
				if s := l.Get(i).String(); s != "" && s != "0" {
					known = append(known, s)
				}
			}
			if unset {
				return "is required: one of " + strings.Join(known, ", ")
			}
			return "must be one of " + strings.Join(known, ", ")
		}
	case "min_len":
		if unset {
			return "is required"
		}
		if v.RuleValue.IsValid() && v.RuleValue.Uint() == 1 {
			return "must not be empty"
		}
	case "max_len":
		return fmt.Sprintf("must have at most %s characters", v.RuleValue)
	case "min_items":
		return fmt.Sprintf("must have at least %s", plural(v.RuleValue.Uint(), "item"))
	case "max_items":
		return fmt.Sprintf("must have at most %s", plural(v.RuleValue.Uint(), "item"))
	case "min_pairs":
		return fmt.Sprintf("must have at least %s", plural(v.RuleValue.Uint(), "pair"))
	case "unique":
		return "must not repeat an item"
	case "gte_lte":
		if bounds := integers.FindAllString(v.Proto.GetMessage(), -1); len(bounds) == 2 {
			return fmt.Sprintf("must be a number from %s to %s", bounds[0], bounds[1])
		}
	case "gte":
		return fmt.Sprintf("must be at least %s", v.RuleValue)
	case "lte":
		return fmt.Sprintf("must be at most %s", v.RuleValue)
	}
	return v.Proto.GetMessage()
}

func plural(n uint64, noun string) string {
	if n == 1 {
		return "one " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
