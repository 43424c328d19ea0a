package kds

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"sort"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// fingerprint is the digest of one key at the other side.
type fingerprint uint64

// fingerprintOf digests what the other side has of a key: version and, where it is the sender's, the status.
func fingerprintOf(key mesh.Key, version uint64, status proto.Message) fingerprint {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key.String()))
	var b [9]byte
	binary.BigEndian.PutUint64(b[1:], version)
	_, _ = h.Write(b[:])
	if status != nil && status.ProtoReflect().IsValid() {
		s, err := proto.MarshalOptions{Deterministic: true}.Marshal(status)
		if err != nil {
			panic(fmt.Sprintf("kds: marshal status of %s: %v", key, err))
		}
		_, _ = h.Write(s)
	}
	return fingerprint(mix(h.Sum64()))
}

// mix spreads FNV's weak high bits, so that sums of fingerprints do not cancel out.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// versionVector is what the other side has: a fingerprint per key, and their sums per kind. Sums do
// not depend on order.
type versionVector struct {
	fingerprints map[mesh.Key]fingerprint
	sums         map[mesh.Kind]*sum
}

type sum struct {
	digest uint64
	count  uint32
}

func newVersionVector() *versionVector {
	return &versionVector{fingerprints: map[mesh.Key]fingerprint{}, sums: map[mesh.Kind]*sum{}}
}

func (l *versionVector) set(key mesh.Key, m fingerprint) {
	s := l.sums[key.Kind]
	if s == nil {
		s = &sum{}
		l.sums[key.Kind] = s
	}
	if old, ok := l.fingerprints[key]; ok {
		s.digest -= uint64(old)
	} else {
		s.count++
	}
	s.digest += uint64(m)
	l.fingerprints[key] = m
}

func (l *versionVector) remove(key mesh.Key) {
	old, ok := l.fingerprints[key]
	if !ok {
		return
	}
	delete(l.fingerprints, key)
	s := l.sums[key.Kind]
	s.digest -= uint64(old)
	if s.count--; s.count == 0 {
		delete(l.sums, key.Kind)
	}
}

func (l *versionVector) has(key mesh.Key) bool {
	_, ok := l.fingerprints[key]
	return ok
}

func (l *versionVector) digest(revision uint64) *kdsv1.Digest {
	d := &kdsv1.Digest{Revision: revision}
	for kind, s := range l.sums {
		d.Kinds = append(d.Kinds, &kdsv1.KindDigest{Kind: string(kind), Digest: s.digest, Count: s.count})
	}
	sort.Slice(d.Kinds, func(i, j int) bool { return d.Kinds[i].Kind < d.Kinds[j].Kind })
	return d
}

// summarize makes one digest of those of all kinds. Each is a sum over keys whose fingerprints have
// the kind in them, so that their sum tells any difference.
func summarize(d *kdsv1.Digest) *kdsv1.Digest {
	var all uint64
	for _, k := range d.GetKinds() {
		all += k.GetDigest()
	}
	return &kdsv1.Digest{Revision: d.GetRevision(), Summary: &all}
}

// differing names the kinds in which two digests differ.
func differing(a, b *kdsv1.Digest) []mesh.Kind {
	type pair struct{ a, b *kdsv1.KindDigest }
	kinds := map[string]*pair{}
	at := func(k string) *pair {
		if kinds[k] == nil {
			kinds[k] = &pair{}
		}
		return kinds[k]
	}
	for _, d := range a.GetKinds() {
		at(d.GetKind()).a = d
	}
	for _, d := range b.GetKinds() {
		at(d.GetKind()).b = d
	}
	var out []mesh.Kind
	for k, p := range kinds {
		if _, known := mesh.Lookup(mesh.Kind(k)); !known {
			continue // neither side can have any
		}
		if p.a.GetDigest() != p.b.GetDigest() || p.a.GetCount() != p.b.GetCount() {
			out = append(out, mesh.Kind(k))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}
