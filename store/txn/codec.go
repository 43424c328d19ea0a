package txn

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	storev1 "github.com/meridian-mesh/meridian/proto/meridian/store/v1"
	"github.com/meridian-mesh/meridian/store"
)

// sealedType marks a spec that is encrypted; the value is the sealed bytes of the spec's message.
const sealedType = "meridian/sealed"

// Codec writes and reads rows. The zero Codec has no Sealer and refuses to write secret kinds.
type Codec struct {
	Sealer store.Sealer
}

// EncodeResource is the row of a resource's current state under name.
func (c Codec) EncodeResource(name string, r *mesh.Resource) ([]byte, error) {
	p, err := c.toProto(r)
	if err != nil {
		return nil, err
	}
	return seal(name, p)
}

// DecodeResource is the inverse of EncodeResource.
func (c Codec) DecodeResource(name string, row []byte) (*mesh.Resource, error) {
	p := &meshv1.Resource{}
	if err := open(name, row, p); err != nil {
		return nil, err
	}
	return c.fromProto(p)
}

// EncodeCommit is the row of a whole commit under name.
func (c Codec) EncodeCommit(name string, commit store.Commit) ([]byte, error) {
	p := &storev1.Commit{Revision: commit.Revision, Time: timestamppb.New(commit.Time), Actor: commit.Author}
	for _, ch := range commit.Changes {
		cp, err := c.changeToProto(ch)
		if err != nil {
			return nil, err
		}
		p.Changes = append(p.Changes, cp)
	}
	return seal(name, p)
}

// DecodeCommit is the inverse of EncodeCommit.
func (c Codec) DecodeCommit(name string, row []byte) (store.Commit, error) {
	p := &storev1.Commit{}
	if err := open(name, row, p); err != nil {
		return store.Commit{}, err
	}
	commit := store.Commit{Revision: p.GetRevision(), Time: p.GetTime().AsTime(), Author: p.GetActor()}
	for _, cp := range p.GetChanges() {
		ch, err := c.changeFromProto(cp)
		if err != nil {
			return store.Commit{}, err
		}
		commit.Changes = append(commit.Changes, ch)
	}
	return commit, nil
}

// EncodeChange is the row of one change under name.
func (c Codec) EncodeChange(name string, ch store.Change) ([]byte, error) {
	p, err := c.changeToProto(ch)
	if err != nil {
		return nil, err
	}
	return seal(name, p)
}

// DecodeChange is the inverse of EncodeChange.
func (c Codec) DecodeChange(name string, row []byte) (store.Change, error) {
	p := &storev1.Change{}
	if err := open(name, row, p); err != nil {
		return store.Change{}, err
	}
	return c.changeFromProto(p)
}

func (c Codec) changeToProto(ch store.Change) (*storev1.Change, error) {
	p := &storev1.Change{Type: int32(ch.Type), Key: ch.Key.Proto()}
	var err error
	if p.Resource, err = c.toProto(ch.Resource); err != nil {
		return nil, err
	}
	p.Old, err = c.toProto(ch.Old)
	return p, err
}

func (c Codec) changeFromProto(p *storev1.Change) (store.Change, error) {
	ch := store.Change{Type: store.ChangeType(p.GetType()), Key: mesh.KeyFromProto(p.GetKey())}
	if ch.Type < store.ChangeSpec || ch.Type > store.ChangeDelete {
		return ch, fmt.Errorf("change of %s has the unknown type %d", ch.Key, ch.Type)
	}
	var err error
	if p.GetResource() != nil {
		if ch.Resource, err = c.fromProto(p.GetResource()); err != nil {
			return ch, err
		}
	}
	if p.GetOld() != nil {
		ch.Old, err = c.fromProto(p.GetOld())
	}
	return ch, err
}

func (c Codec) toProto(r *mesh.Resource) (*meshv1.Resource, error) {
	if r == nil {
		return nil, nil
	}
	p, err := r.Proto()
	if err != nil {
		return nil, err
	}
	if info, ok := mesh.Lookup(r.Key.Kind); ok && info.Secret() {
		if c.Sealer == nil {
			return nil, fmt.Errorf("%s is secret and there is no key to encrypt it", r.Key)
		}
		sealed, err := c.Sealer.Seal(p.GetSpec().GetValue(), []byte(r.Key.String()))
		if err != nil {
			return nil, fmt.Errorf("encrypt %s: %w", r.Key, err)
		}
		p.Spec = &anypb.Any{TypeUrl: sealedType, Value: sealed}
	}
	return p, nil
}

func (c Codec) fromProto(p *meshv1.Resource) (*mesh.Resource, error) {
	key := mesh.KeyFromProto(p.GetKey())
	if info, ok := mesh.Lookup(key.Kind); ok && info.Secret() {
		if p.GetSpec().GetTypeUrl() != sealedType || c.Sealer == nil {
			return nil, fmt.Errorf("%s is not encrypted, or there is no key to decrypt it", key)
		}
		plain, err := c.Sealer.Open(p.GetSpec().GetValue(), []byte(key.String()))
		if err != nil {
			return nil, fmt.Errorf("decrypt %s: %w", key, err)
		}
		spec := info.NewSpec()
		if err := proto.Unmarshal(plain, spec); err != nil {
			return nil, fmt.Errorf("decode spec of %s: %w", key, err)
		}
		p.Spec = nil
		r, err := mesh.FromProto(p)
		if err != nil {
			return nil, err
		}
		r.Spec = spec
		return r, nil
	}
	r, err := mesh.FromProto(p)
	if err == nil {
		r.Spec = share(r.Spec)
	}
	return r, err
}

// EncodeAudit makes a row of an audit entry; it does not hold the ID.
func EncodeAudit(e store.AuditEntry) ([]byte, error) {
	e.ID = 0
	body, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return SealBytes(auditName, body), nil
}

// DecodeAudit is the inverse of [EncodeAudit].
func DecodeAudit(id uint64, row []byte) (e store.AuditEntry, err error) {
	body, err := OpenBytes(auditName, row)
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	e.ID = id
	return e, err
}

const auditName = "audit"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errChecksum = errors.New("checksum does not match")

// SealBytes puts a checksum over name and payload in front of the payload.
func SealBytes(name string, payload []byte) []byte {
	row := make([]byte, 4, 4+len(payload))
	row = append(row, payload...)
	binary.BigEndian.PutUint32(row, checksum(name, payload))
	return row
}

// OpenBytes checks what SealBytes wrote and returns the payload, which shares row's memory.
func OpenBytes(name string, row []byte) ([]byte, error) {
	if len(row) < 4 || binary.BigEndian.Uint32(row) != checksum(name, row[4:]) {
		return nil, errChecksum
	}
	return row[4:], nil
}

func checksum(name string, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(name), castagnoli), castagnoli, payload)
}

func seal(name string, m proto.Message) ([]byte, error) {
	row, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(make([]byte, 4, 512), m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	binary.BigEndian.PutUint32(row, checksum(name, row[4:]))
	return row, nil
}

func open(name string, row []byte, m proto.Message) error {
	payload, err := OpenBytes(name, row)
	if err != nil {
		return err
	}
	return proto.Unmarshal(payload, m)
}

// KindRefs of a change: what its kind's last revision is kept under. A change of status alone has none.
func KindRefs(ch store.Change) []KindRef {
	if ch.Type == store.ChangeStatus {
		return nil
	}
	if ch.Key.Mesh == "" {
		return []KindRef{{ch.Key.Kind, ""}}
	}
	return []KindRef{{ch.Key.Kind, ch.Key.Mesh}, {ch.Key.Kind, ""}}
}

// Overlay is a State over another, with the writes of transactions that were evaluated but not yet written.
type Overlay struct {
	base      State
	resources map[mesh.Key]*mesh.Resource
	kinds     map[KindRef]uint64
}

// NewOverlay starts with no writes.
func NewOverlay(base State) *Overlay {
	return &Overlay{base: base, resources: map[mesh.Key]*mesh.Resource{}, kinds: map[KindRef]uint64{}}
}

// Resource implements State.
func (o *Overlay) Resource(key mesh.Key) *mesh.Resource {
	if r, ok := o.resources[key]; ok {
		return r
	}
	return o.base.Resource(key)
}

// KindRevision implements State.
func (o *Overlay) KindRevision(kind mesh.Kind, meshName string) uint64 {
	if rev, ok := o.kinds[KindRef{kind, meshName}]; ok {
		return rev
	}
	return o.base.KindRevision(kind, meshName)
}

// Apply notes the changes of a commit at revision.
func (o *Overlay) Apply(changes []store.Change, revision uint64) {
	for _, ch := range changes {
		o.resources[ch.Key] = ch.Resource
		for _, ref := range KindRefs(ch) {
			o.kinds[ref] = revision
		}
	}
}

// Written is every resource that Apply noted, as it is now; nil values are deletions. The caller
// must not change it.
func (o *Overlay) Written() map[mesh.Key]*mesh.Resource { return o.resources }

// WrittenKinds is every kind revision that Apply noted.
func (o *Overlay) WrittenKinds() map[KindRef]uint64 { return maps.Clone(o.kinds) }
