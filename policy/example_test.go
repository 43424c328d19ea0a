package policy_test

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Two timeouts for one service: the policy "aaa" ranks above "zzz", and what it does not set stays.
func ExampleForDestination() {
	docs, err := codec.Decode([]byte(`
type: MeshTimeout
name: aaa
spec: {to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 2s}}}]}
---
type: MeshTimeout
name: zzz
spec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 1s, http: {requestTimeout: 9s}}}]}
`))
	if err != nil {
		fmt.Println(err)
		return
	}

	// Ascending by policy.Compare: the policy that ranks highest comes last.
	policies := []*mesh.Resource{docs[1].Resource, docs[0].Resource}
	backend := policy.Destination{
		Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Name: "backend"},
	}

	effective := policy.ForDestination(policies, backend)
	conf := effective.Conf.(*meshv1.MeshTimeout_Conf)
	fmt.Println("connect", conf.GetConnectionTimeout().AsDuration(),
		"by", effective.Fields["connectionTimeout"].Key.Name)
	fmt.Println("request", conf.GetHttp().GetRequestTimeout().AsDuration(),
		"by", effective.Fields["http.requestTimeout"].Key.Name)

	// Output:
	// connect 1s by zzz
	// request 2s by aaa
}
