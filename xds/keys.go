package xds

import (
	"fmt"
	"slices"

	"github.com/meridian-mesh/meridian/internal/intern"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// The keys of queries. Each says how it is called in logs and rejections (String), and what to
// charge when its value cannot be computed (source).

// source is a key that carries what policies say, or that is about one destination.
type source interface {
	// source is the policies that the key was made from, and the destination it is for; either may
	// be empty.
	source() (policies keyList, destination mesh.Key)
}

// keyList is a list of keys that compares by content, so that proxies with equal policies meet in one
// node.
type keyList struct{ intern.List[mesh.Key] }

// scope is a list of outbounds that compares by content.
type scope struct{ intern.List[compile.Outbound] }

// nameList is a list of names, sorted, that compares by content.
type nameList = intern.List[string]

func internKeys(keys []mesh.Key) keyList { return keyList{intern.ListOf(keys)} }

func internScope(list []compile.Outbound) scope { return scope{intern.ListOf(list)} }

func internNames(names []string) nameList {
	slices.Sort(names)
	return intern.ListOf(slices.Compact(names))
}

func (keyList) String() string { return "of a group of proxies" }

func (scope) String() string { return "outbounds of a group of proxies" }

type (
	meshName string
	zoneName string
)

func (n meshName) String() string { return string(n) }

func (n zoneName) String() string { return string(n) }

// portKey is a destination's port for all callers.
type portKey struct{ compile.Ref }

func (k portKey) String() string { return k.KRI() }

func (k portKey) source() (keyList, mesh.Key) { return keyList{}, k.Key }

// inSet is a destination's port as a group of proxies with equal policies sees it.
type inSet struct {
	set keyList
	ref compile.Ref
}

func (k inSet) String() string { return k.ref.KRI() }

func (k inSet) source() (keyList, mesh.Key) { return keyList{}, k.ref.Key }

// serviceRange is the instances of a service's port that are in this zone.
type serviceRange struct {
	service mesh.Key
	port    uint32
	// near is the part of a locality that places instances of this zone.
	near ir.Shared[compile.Locality]
}

func (k serviceRange) String() string { return fmt.Sprintf("%s port %d", k.service, k.port) }

func (k serviceRange) source() (keyList, mesh.Key) { return keyList{}, k.service }

type clusterKey struct {
	ref    compile.Ref
	conf   ir.ClusterPolicy
	causes keyList
}

func (k clusterKey) String() string { return k.ref.KRI() }

func (k clusterKey) source() (keyList, mesh.Key) { return k.causes, k.ref.Key }

// endpointsKey is a destination's port for callers with the same locality; causes are the policies
// that made it.
type endpointsKey struct {
	ref      compile.Ref
	locality ir.Shared[compile.Locality]
	causes   keyList
}

func (k endpointsKey) String() string { return k.ref.KRI() }

func (k endpointsKey) source() (keyList, mesh.Key) { return k.causes, k.ref.Key }

type routesKey struct {
	inSet
	conf   ir.RoutePolicy
	causes keyList
}

func (k routesKey) source() (keyList, mesh.Key) { return k.causes, k.ref.Key }

type listenerKey struct {
	outbound compile.Outbound
	conf     ir.ListenerPolicy
	// backends of a MeshTCPRoute, if one takes the connections.
	backends ir.Shared[[]ir.Backend]
	causes   keyList
}

func (k listenerKey) String() string { return k.outbound.Name }

func (k listenerKey) source() (keyList, mesh.Key) { return k.causes, k.outbound.Ref.Key }

// listedKey is a list of outbounds as Dataplanes of a mesh, zone and namespace write it.
type listedKey struct {
	at        mesh.Key
	outbounds intern.List[compile.Listing]
}

func (k listedKey) String() string { return "outbounds listed in mesh " + k.at.Mesh }

type inboundKey struct {
	mesh string
	set  keyList
}

func (k inboundKey) String() string { return "inbounds of mesh " + k.mesh }

type groupKey struct {
	set   keyList
	scope scope
	tags  callerTags
}

func (groupKey) String() string { return "of a group of proxies" }

// caller is a client of a proxy: a proxy may have several kinds. It is the key of tables.
type caller struct {
	proxy  mesh.Key
	client delta.Client
}

func (c caller) String() string { return c.proxy.String() }

// targetKey is a name as Dataplanes of a mesh, zone and namespace call it.
type targetKey struct {
	at   mesh.Key
	name string
}

func (k targetKey) String() string { return fmt.Sprintf("%s in mesh %s", k.name, k.at.Mesh) }

type callKey struct {
	name string
	ref  compile.Ref
}

func (k callKey) String() string { return k.name }

func (k callKey) source() (keyList, mesh.Key) { return keyList{}, k.ref.Key }

type callClusterKey struct {
	ref compile.Ref
	// certificates is the client's provider.
	certificates string
}

func (k callClusterKey) String() string { return k.ref.KRI() }

func (k callClusterKey) source() (keyList, mesh.Key) { return keyList{}, k.ref.Key }

type callsKey struct {
	at           mesh.Key
	set          keyList
	names        nameList
	certificates string
}

func (callsKey) String() string { return "of a group of gRPC clients" }
