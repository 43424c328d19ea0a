package kds

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Direction of a stream.
type Direction int

// Directions.
const (
	// Down is from global to a zone (Config).
	Down Direction = iota
	// Up is from a zone to global (State).
	Up
)

func (d Direction) String() string {
	if d == Up {
		return "up"
	}
	return "down"
}

// View decides what one peer may see of a store, and in which form. It is used by one goroutine.
type View struct {
	// Direction and Zone: at global, the zone that looks; in a zone, the zone itself.
	Direction Direction
	Zone      string
	// Withheld kinds do not flow; see [Agreement].
	Withheld func(mesh.Kind) bool
	// Hold replaces what the other side sees of a resource, for example by its former spec while
	// a rollout has not reached the zone; nil withholds it. The key must stay. Call Source.Refresh
	// when its answer for a key changes.
	Hold func(*mesh.Resource) *mesh.Resource
	// Transform replaces [PublicHalf], which is the default; it must not change its argument.
	Transform func(*mesh.Resource) *mesh.Resource

	disabled map[string]bool
}

// NoteZone tells the View of a Zone resource, nil if the zone is gone. It reports whether the view
// of the zone's resources changed.
func (v *View) NoteZone(name string, r *mesh.Resource) bool {
	off := false
	if r != nil {
		z := mesh.Spec[*meshv1.Zone](r)
		off = z.Enabled != nil && !z.GetEnabled()
	}
	if v.disabled[name] == off {
		return false
	}
	if v.disabled == nil {
		v.disabled = map[string]bool{}
	}
	if off {
		v.disabled[name] = true
	} else {
		delete(v.disabled, name)
	}
	return true
}

// SeenKey is the key under which the other side knows key; see [PublicKey].
func (v *View) SeenKey(key mesh.Key) mesh.Key {
	if v.Direction == Down {
		return PublicKey(key)
	}
	return key
}

// See returns r as the other side sees it, and nil if it must not see it. What it returns may share
// parts with r.
func (v *View) See(r *mesh.Resource) *mesh.Resource {
	if !Exchanged(v.Direction, v.Zone, v.SeenKey(r.Key)) || r.Labels[mesh.LabelSync] == mesh.SyncDisabled {
		return nil
	}
	if v.Withheld != nil && v.Withheld(r.Key.Kind) {
		return nil
	}
	if v.Direction == Down && r.Key.Zone != "" && v.disabled[r.Key.Zone] {
		return nil
	}
	if v.Hold != nil {
		if r = v.Hold(r); r == nil {
			return nil
		}
	}
	if v.Direction == Down {
		transform := v.Transform
		if transform == nil {
			transform = PublicHalf
		}
		if r = transform(r); r == nil {
			return nil
		}
	}
	info, _ := mesh.Lookup(r.Key.Kind)
	dropStatus := r.Status != nil && !carriesStatus(v.Direction, info, r.Key)
	_, graced := r.Labels[mesh.LabelGraceStarted]
	if dropStatus || graced {
		c := *r
		if dropStatus {
			c.Status = nil
		}
		if graced {
			c.Labels = maps.Clone(r.Labels)
			delete(c.Labels, mesh.LabelGraceStarted)
		}
		r = &c
	}
	return r
}

// carriesStatus says whether the status is the sender's. What global passes on of another zone
// carries that zone's.
func carriesStatus(d Direction, info *mesh.KindInfo, key mesh.Key) bool {
	if d == Up || key.Zone != "" {
		return info.StatusUp
	}
	return info.StatusDown
}

// Exchanged says whether a resource of this key can flow in the direction between global and zone,
// whatever its content. It is the ownership rule of both sides: a Source sends nothing else, and a
// Sink takes and removes nothing else.
func Exchanged(d Direction, zone string, key mesh.Key) bool {
	info, ok := mesh.Lookup(key.Kind)
	switch {
	case !ok:
		return false
	case d == Up:
		return info.SyncUp && key.Zone == zone
	case key.Zone == "":
		return info.SyncDown && secrets.TravelOf(key) == secrets.Whole
	default:
		return info.SyncCross && key.Zone != zone
	}
}

// PublicKey is the key under which zones have a secret of global: another one for secrets of which
// they get the public half.
func PublicKey(key mesh.Key) mesh.Key {
	public, _ := secrets.Public(key)
	return public
}

// PublicHalf turns a zone token's signing key into its public half, PEM "PUBLIC KEY"; nil if it
// holds no RSA private key. Other resources are returned as they are.
func PublicHalf(r *mesh.Resource) *mesh.Resource {
	seen := PublicKey(r.Key)
	if seen == r.Key {
		return r
	}
	public, err := publicPEM(mesh.Spec[*meshv1.GlobalSecret](r).GetData())
	if err != nil {
		return nil
	}
	c := *r
	c.Key, c.Spec = seen, proto.Message(&meshv1.GlobalSecret{Data: public})
	if c.Labels[mesh.LabelDisplayName] == r.Key.Name {
		c.Labels = maps.Clone(c.Labels)
		c.Labels[mesh.LabelDisplayName] = seen.Name
	}
	return &c
}

func publicPEM(data []byte) ([]byte, error) {
	der := data
	if b, _ := pem.Decode(data); b != nil {
		der = b.Bytes
	}
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		any8, err8 := x509.ParsePKCS8PrivateKey(der)
		if err8 != nil {
			return nil, err8
		}
		k, ok := any8.(*rsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("the key is a %T, it must be an RSA key", any8)
		}
		key = k
	}
	der, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
