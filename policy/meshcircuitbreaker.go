package policy

import (
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// replacesDefaults says that a person's conf takes the place of what the defaults of the system
// say, instead of being merged over it: with detectors of their own, people do not expect those of
// the default to eject too.
func replacesDefaults(conf proto.Message) bool {
	b, ok := conf.(*meshv1.MeshCircuitBreaker_Conf)
	return ok && b.GetOutlierDetection() != nil
}
