package mesh

import (
	"slices"

	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Kind is the name of a kind, as in "type:" or "kind:" of a document.
type Kind string

// The kinds there are.
const (
	KindMesh                  Kind = "Mesh"
	KindZone                  Kind = "Zone"
	KindDataplane             Kind = "Dataplane"
	KindDataplaneInsight      Kind = "DataplaneInsight"
	KindZoneIngress           Kind = "ZoneIngress"
	KindZoneIngressInsight    Kind = "ZoneIngressInsight"
	KindMeshService           Kind = "MeshService"
	KindMeshMultiZoneService  Kind = "MeshMultiZoneService"
	KindVirtualAddress        Kind = "VirtualAddress"
	KindHostnameGenerator     Kind = "HostnameGenerator"
	KindSecret                Kind = "Secret"
	KindGlobalSecret          Kind = "GlobalSecret"
	KindMeshHTTPRoute         Kind = "MeshHTTPRoute"
	KindMeshTCPRoute          Kind = "MeshTCPRoute"
	KindMeshTimeout           Kind = "MeshTimeout"
	KindMeshTrafficPermission Kind = "MeshTrafficPermission"
	KindMeshFaultInjection    Kind = "MeshFaultInjection"
	KindMeshRateLimit         Kind = "MeshRateLimit"
	KindMeshHealthCheck       Kind = "MeshHealthCheck"
	KindMeshCircuitBreaker    Kind = "MeshCircuitBreaker"
	KindMeshRetry             Kind = "MeshRetry"

	KindMeshLoadBalancingStrategy Kind = "MeshLoadBalancingStrategy"
)

// Scope of a kind.
type Scope int

// Scopes.
const (
	ScopeGlobal Scope = iota
	ScopeMesh
)

// Writers says where people may create a kind. A standalone zone may create whatever either role may.
type Writers int

// Writers.
const (
	// ReadOnly kinds are written by control planes alone.
	ReadOnly Writers = iota
	GlobalOnly
	ZoneOnly
	GlobalAndZone
)

// KindInfo is the row of a kind.
type KindInfo struct {
	Kind Kind
	// Short name of the KRI; empty if the kind has none.
	Short string
	// Plural is the segment of REST paths.
	Plural string
	Scope  Scope
	// NameLimit is how long a name may be, in bytes; 0 is 253. Names that become one label of DNS have 63.
	NameLimit int
	// Flat kinds have their spec's fields at the top of the Universal document instead of under "spec".
	Flat    bool
	Writers Writers

	// SyncDown: global's resources go to every zone. SyncUp: a zone's resources go to global.
	// SyncCross: global passes them on to the other zones.
	SyncDown, SyncUp, SyncCross bool
	// StatusDown, StatusUp: the status goes along, and is the sender's to write.
	StatusDown, StatusUp bool

	NewSpec func() proto.Message
	// NewStatus is nil for kinds without status.
	NewStatus func() proto.Message

	// Policy is nil for kinds that are no targetRef policy.
	Policy *PolicyInfo
}

// PolicyInfo is what sets policy kinds apart.
type PolicyInfo struct {
	// Order in which kinds edit a proxy's configuration.
	Order int
	// Top are the kinds of the policy's own targetRef, and TopOfSystem those that policies of the
	// system have besides, which are those without a namespace.
	Top, TopOfSystem []string
	// To are the kinds of targetRef of an entry of "to"; without any, the kind of policy has no "to".
	To []string
	// ToOfGateways are instead of To below a MeshGateway or a MeshHTTPRoute; nil is the same as To.
	ToOfGateways []string
	// From are the kinds of targetRef of an entry of "from"; without any, there is no "from".
	From []string
	// HasRules says that there are "rules".
	HasRules bool
}

// Words in To and ToOfGateways that stand for kinds of package mesh/destination.
const (
	// AnyDestination is every kind that a targetRef can name.
	AnyDestination = "destination"
	// AnyProxied is those of them whose endpoints are proxies of the mesh: which of other endpoints is
	// taken is not for a policy to say.
	AnyProxied = "destination of proxies"
)

// HasTo says that policies of the kind have entries about destinations.
func (p *PolicyInfo) HasTo() bool { return len(p.To) > 0 }

// HasFrom says that policies of the kind have entries about callers by their tags.
func (p *PolicyInfo) HasFrom() bool { return len(p.From) > 0 }

// What rows of policies have in common.
var (
	anyProxies           = []string{"Mesh", "Dataplane", "MeshSubset", "MeshService", "MeshServiceSubset"}
	anyProxiesOrGateways = append(slices.Clip(anyProxies), "MeshGateway")
	gateways             = []string{"MeshGateway"}
	gatewaysOrRoutes     = []string{"MeshGateway", "MeshHTTPRoute"}

	wholeMesh            = []string{"Mesh"}
	destinations         = []string{"Mesh", AnyDestination}
	destinationsOrRoutes = []string{"Mesh", AnyDestination, "MeshHTTPRoute"}
	oneDestination       = []string{AnyDestination}
	callers              = []string{"Mesh", "MeshSubset", "MeshService", "MeshServiceSubset"}
)

// Local says that the kind never leaves the control plane that wrote it.
func (k *KindInfo) Local() bool { return !k.SyncDown && !k.SyncUp && !k.SyncCross }

// Secret says that specs of the kind are encrypted before they reach a row and are never logged or
// listed without right.
func (k *KindInfo) Secret() bool { return k.Kind == KindSecret || k.Kind == KindGlobalSecret }

func newDelivery() proto.Message { return &meshv1.DeliveryStatus{} }

// Kinds is the table of kinds, in the order in which documents of a folder are best applied.
var Kinds = []*KindInfo{
	{
		Kind:      KindMesh,
		Short:     "m",
		Plural:    "meshes",
		Scope:     ScopeGlobal,
		NameLimit: 63,
		Flat:      true,
		Writers:   GlobalOnly,
		SyncDown:  true,
		NewSpec:   func() proto.Message { return &meshv1.Mesh{} },
		NewStatus: newDelivery,
	},
	{
		Kind:      KindZone,
		Short:     "z",
		Plural:    "zones",
		Scope:     ScopeGlobal,
		NameLimit: 63,
		Flat:      true,
		Writers:   GlobalOnly,
		NewSpec:   func() proto.Message { return &meshv1.Zone{} },
		NewStatus: func() proto.Message { return &meshv1.ZoneStatus{} },
	},
	{
		Kind:     KindGlobalSecret,
		Plural:   "global-secrets",
		Scope:    ScopeGlobal,
		Flat:     true,
		Writers:  GlobalAndZone,
		SyncDown: true,
		NewSpec:  func() proto.Message { return &meshv1.GlobalSecret{} },
	},
	{
		Kind:     KindSecret,
		Plural:   "secrets",
		Scope:    ScopeMesh,
		Flat:     true,
		Writers:  GlobalAndZone,
		SyncDown: true,
		NewSpec:  func() proto.Message { return &meshv1.Secret{} },
	},
	{
		Kind:      KindHostnameGenerator,
		Short:     "hg",
		Plural:    "hostnamegenerators",
		Scope:     ScopeGlobal,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.HostnameGenerator{} },
		NewStatus: newDelivery,
	},
	{
		Kind:    KindDataplane,
		Short:   "dp",
		Plural:  "dataplanes",
		Scope:   ScopeMesh,
		Flat:    true,
		Writers: ZoneOnly,
		NewSpec: func() proto.Message { return &meshv1.Dataplane{} },
	},
	{
		Kind:    KindDataplaneInsight,
		Plural:  "dataplane-insights",
		Scope:   ScopeMesh,
		Flat:    true,
		Writers: ReadOnly,
		NewSpec: func() proto.Message { return &meshv1.ProxyInsight{} },
	},
	{
		Kind:      KindZoneIngress,
		Short:     "zi",
		Plural:    "zoneingresses",
		Scope:     ScopeGlobal,
		Flat:      true,
		Writers:   ZoneOnly,
		SyncUp:    true,
		SyncCross: true,
		NewSpec:   func() proto.Message { return &meshv1.ZoneIngress{} },
	},
	{
		Kind:      KindZoneIngressInsight,
		Plural:    "zone-ingress-insights",
		Scope:     ScopeGlobal,
		Flat:      true,
		Writers:   ReadOnly,
		SyncUp:    true,
		SyncCross: true,
		NewSpec:   func() proto.Message { return &meshv1.ProxyInsight{} },
	},
	{
		Kind:      KindMeshService,
		Short:     "msvc",
		Plural:    "meshservices",
		Scope:     ScopeMesh,
		NameLimit: 63,
		Writers:   ZoneOnly,
		SyncUp:    true,
		SyncCross: true,
		StatusUp:  true,
		NewSpec:   func() proto.Message { return &meshv1.MeshService{} },
		NewStatus: func() proto.Message { return &meshv1.MeshServiceStatus{} },
	},
	{
		Kind:       KindMeshMultiZoneService,
		Short:      "mzsvc",
		Plural:     "meshmultizoneservices",
		Scope:      ScopeMesh,
		NameLimit:  63,
		Writers:    GlobalOnly,
		SyncDown:   true,
		StatusDown: true,
		NewSpec:    func() proto.Message { return &meshv1.MeshMultiZoneService{} },
		NewStatus:  func() proto.Message { return &meshv1.MeshMultiZoneServiceStatus{} },
	},
	{
		Kind:    KindVirtualAddress,
		Plural:  "virtualaddresses",
		Scope:   ScopeMesh,
		Flat:    true,
		Writers: ReadOnly,
		NewSpec: func() proto.Message { return &meshv1.VirtualAddress{} },
	},
	{
		Kind:      KindMeshHTTPRoute,
		Short:     "mhttpr",
		Plural:    "meshhttproutes",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshHTTPRoute{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:        100,
			Top:          anyProxies,
			TopOfSystem:  gateways,
			To:           oneDestination,
			ToOfGateways: wholeMesh,
		},
	},
	{
		Kind:      KindMeshTCPRoute,
		Short:     "mtcpr",
		Plural:    "meshtcproutes",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshTCPRoute{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:        200,
			Top:          anyProxies,
			TopOfSystem:  gateways,
			To:           oneDestination,
			ToOfGateways: wholeMesh,
		},
	},
	{
		Kind:      KindMeshLoadBalancingStrategy,
		Short:     "mlbs",
		Plural:    "meshloadbalancingstrategies",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshLoadBalancingStrategy{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:        400,
			Top:          anyProxiesOrGateways,
			To:           []string{"Mesh", AnyProxied, "MeshHTTPRoute"},
			ToOfGateways: []string{"Mesh", AnyProxied},
		},
	},
	{
		Kind:      KindMeshFaultInjection,
		Short:     "mfi",
		Plural:    "meshfaultinjections",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshFaultInjection{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:       800,
			Top:         anyProxies,
			TopOfSystem: gateways,
			To:          wholeMesh,
			From:        callers,
			HasRules:    true,
		},
	},
	{
		Kind:      KindMeshRateLimit,
		Short:     "mrl",
		Plural:    "meshratelimits",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshRateLimit{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:       900,
			Top:         anyProxies,
			TopOfSystem: gatewaysOrRoutes,
			To:          wholeMesh,
			From:        wholeMesh,
			HasRules:    true,
		},
	},
	{
		Kind:      KindMeshTimeout,
		Short:     "mt",
		Plural:    "meshtimeouts",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshTimeout{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:        1000,
			Top:          anyProxies,
			TopOfSystem:  gatewaysOrRoutes,
			To:           destinationsOrRoutes,
			ToOfGateways: []string{"Mesh", "MeshExternalService"},
			From:         wholeMesh,
			HasRules:     true,
		},
	},
	{
		Kind:      KindMeshTrafficPermission,
		Short:     "mtp",
		Plural:    "meshtrafficpermissions",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshTrafficPermission{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:    1100,
			Top:      anyProxies,
			From:     callers,
			HasRules: true,
		},
	},
	{
		Kind:      KindMeshHealthCheck,
		Short:     "mhc",
		Plural:    "meshhealthchecks",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshHealthCheck{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order: 1200,
			Top:   anyProxiesOrGateways,
			To:    destinations,
		},
	},
	{
		Kind:      KindMeshCircuitBreaker,
		Short:     "mcb",
		Plural:    "meshcircuitbreakers",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshCircuitBreaker{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:    1300,
			Top:      anyProxiesOrGateways,
			To:       destinations,
			From:     wholeMesh,
			HasRules: true,
		},
	},
	{
		Kind:      KindMeshRetry,
		Short:     "mr",
		Plural:    "meshretries",
		Scope:     ScopeMesh,
		Writers:   GlobalAndZone,
		SyncDown:  true,
		SyncUp:    true,
		NewSpec:   func() proto.Message { return &meshv1.MeshRetry{} },
		NewStatus: newDelivery,
		Policy: &PolicyInfo{
			Order:        1400,
			Top:          anyProxies,
			TopOfSystem:  gatewaysOrRoutes,
			To:           destinationsOrRoutes,
			ToOfGateways: []string{"Mesh", "MeshExternalService"},
		},
	},
}

// Lookup finds a kind's row.
func Lookup(k Kind) (*KindInfo, bool) {
	for _, info := range Kinds {
		if info.Kind == k {
			return info, true
		}
	}
	return nil, false
}

// LookupPlural finds a kind by its REST path segment.
func LookupPlural(plural string) (*KindInfo, bool) {
	for _, info := range Kinds {
		if info.Plural == plural {
			return info, true
		}
	}
	return nil, false
}
