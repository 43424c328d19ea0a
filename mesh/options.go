package mesh

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// DocumentOptions says how documents write a field, where that is more than its JSON name and type;
// nil for most fields. The options stand at the field in its proto.
func DocumentOptions(fd protoreflect.FieldDescriptor) *meshv1.DocumentOptions {
	if !proto.HasExtension(fd.Options(), meshv1.E_Document) {
		return nil
	}
	options, _ := proto.GetExtension(fd.Options(), meshv1.E_Document).(*meshv1.DocumentOptions)
	return options
}
