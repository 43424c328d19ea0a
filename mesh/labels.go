package mesh

// Labels that the control plane computes or reads.
const (
	LabelMesh   = "kuma.io/mesh"
	LabelOrigin = "kuma.io/origin"
	// LabelAcceptStore of a Zone names a store of the zone, whose lack of what former stores had is meant.
	LabelAcceptStore = "meridian.io/accept-store"
	LabelZone        = "kuma.io/zone"
	LabelEnv         = "kuma.io/env"
	LabelNamespace   = "k8s.kuma.io/namespace"
	LabelDisplayName = "kuma.io/display-name"
	LabelPolicyRole  = "kuma.io/policy-role"
	LabelProxyType   = "kuma.io/proxy-type"
	LabelWorkload    = "kuma.io/workload"
	LabelEffect      = "kuma.io/effect"
	LabelManagedBy   = "kuma.io/managed-by"
	LabelSync        = "kuma.io/kds-sync"
	// LabelGraceStarted stamps a generated MeshService that has no Dataplane left, RFC 3339; it is
	// stripped on sync.
	LabelGraceStarted = "kuma.io/deletion-grace-period-started-at"
)

// Values of labels.
const (
	OriginGlobal              = "global"
	OriginZone                = "zone"
	EffectShadow              = "shadow"
	ManagedByServiceGenerator = "meshservice-generator"
	ManagedByDefaults         = "meridian-defaults"
	SyncDisabled              = "disabled"
	SystemNamespace           = "kuma-system"
	DefaultMesh               = "default"
)

// Tags of Dataplane inbounds.
const (
	TagService  = "kuma.io/service"
	TagProtocol = "kuma.io/protocol"
	TagZone     = "kuma.io/zone"
)
