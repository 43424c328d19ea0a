package codec

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// deriveName names a policy that came without a name after its targets, such as web-to-backend. The
// same document always gets the same name, so that applying it again changes the same resource.
// Empty for kinds that have no targets.
func deriveName(info *mesh.KindInfo, spec proto.Message) string {
	if info.Policy == nil {
		return ""
	}
	m := spec.ProtoReflect()
	top := &meshv1.TargetRef{}
	if s, ok := spec.(interface{ GetTargetRef() *meshv1.TargetRef }); ok && s.GetTargetRef() != nil {
		top = s.GetTargetRef()
	}
	parts := []string{targetWords(top)}
	for _, list := range []protoreflect.Name{"to", "from"} {
		fd := m.Descriptor().Fields().ByName(list)
		if fd == nil || m.Get(fd).List().Len() == 0 {
			continue
		}
		parts = append(parts, string(list))
		for i := range m.Get(fd).List().Len() {
			if e, ok := m.Get(fd).List().Get(
				i).Message().Interface().(interface{ GetTargetRef() *meshv1.TargetRef }); ok {
				parts = append(parts, targetWords(e.GetTargetRef()))
			}
		}
	}
	return nameOf(strings.Join(parts, "-"))
}

func targetWords(t *meshv1.TargetRef) string {
	words := []string{cmp.Or(t.GetName(), strings.ToLower(cmp.Or(t.GetKind(), "Mesh")))}
	for _, pairs := range []map[string]string{t.GetLabels(), t.GetTags()} {
		for _, k := range slices.Sorted(maps.Keys(pairs)) {
			words = append(words, pairs[k])
		}
	}
	if t.GetSectionName() != "" {
		words = append(words, t.GetSectionName())
	}
	return strings.Join(words, "-")
}

// nameOf turns words into a valid name.
func nameOf(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, s)
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '-' }), "-")
	if len(s) > 253 {
		s = s[:253]
	}
	return strings.Trim(s, "-")
}
