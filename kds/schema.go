package kds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// Capability is what this program can do on the wire. It only grows:
//
//	1  2026-11-21  first version: Reset, Items, Bookmark, Delta with complete kinds, Digest both ways.
//	2  2026-12-01  Close for Refuse, Rejection for a rejection, enums for codes and reasons; one heartbeat
//	               for the connection, on Config alone; digests only after changes, as a summary.
//	               Incompatible with capability 1.
const Capability uint32 = 2

// MinCapability is the oldest capability of the other side that is supported.
const MinCapability uint32 = 2

// Schemas digests the messages of every kind that is ever synced.
func Schemas() []*kdsv1.KindSchema {
	var out []*kdsv1.KindSchema
	for _, info := range mesh.Kinds {
		if info.Local() {
			continue
		}
		h := sha256.New()
		seen := map[protoreflect.FullName]bool{}
		describe(h.Write, info.NewSpec().ProtoReflect().Descriptor(), seen)
		if info.NewStatus != nil && (info.StatusDown || info.StatusUp) {
			describe(h.Write, info.NewStatus().ProtoReflect().Descriptor(), seen)
		}
		out = append(out, &kdsv1.KindSchema{Kind: string(info.Kind), Digest: h.Sum(nil)[:8]})
	}
	return out
}

// describe writes a message and all it refers to. Comments and JSON names do not count; names,
// numbers and types do.
func describe(write func([]byte) (int, error), d protoreflect.MessageDescriptor,
	seen map[protoreflect.FullName]bool) {
	if seen[d.FullName()] {
		return
	}
	seen[d.FullName()] = true
	p := protodesc.ToDescriptorProto(d)
	p.NestedType, p.EnumType = nil, nil // those in use are reached through fields
	for _, f := range p.Field {
		f.JsonName, f.Options = nil, nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("kds: marshal descriptor of %s: %v", d.FullName(), err))
	}
	_, _ = write(b)
	fields := d.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if m := f.Message(); m != nil {
			describe(write, m, seen)
		}
		if e := f.Enum(); e != nil {
			_, _ = fmt.Fprint(writer(write), e.FullName())
			for v := range e.Values().Len() {
				_, _ = fmt.Fprint(writer(write), e.Values().Get(v).Name(), e.Values().Get(v).Number())
			}
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// Agreement is what two peers can exchange.
type Agreement struct {
	// Degraded kinds do not flow, with the reason for people.
	Degraded []*kdsv1.DegradedKind
	// Schema is the fingerprint that cursors carry.
	Schema string
}

// Withheld says that kind does not flow.
func (a Agreement) Withheld(kind mesh.Kind) bool {
	return slices.ContainsFunc(a.Degraded,
		func(d *kdsv1.DegradedKind) bool { return d.GetKind() == string(kind) })
}

// Agree compares the schemas of both sides; both compute the same from the same two lists.
func Agree(global, zone []*kdsv1.KindSchema) Agreement {
	g, z := byKind(global), byKind(zone)
	kinds := map[string]bool{}
	for k := range g {
		kinds[k] = true
	}
	for k := range z {
		kinds[k] = true
	}
	names := make([]string, 0, len(kinds))
	for k := range kinds {
		names = append(names, k)
	}
	sort.Strings(names)
	var a Agreement
	var agreed []string
	for _, k := range names {
		gd, inGlobal := g[k]
		zd, inZone := z[k]
		reason := ""
		switch {
		case !inGlobal:
			reason = "global does not know the kind; upgrade global"
		case !inZone:
			reason = "the zone does not know the kind; upgrade the zone"
		case gd != zd:
			reason = fmt.Sprintf("the schema differs (global %x, zone %x); bring both to the same version",
				gd, zd)
		}
		if reason != "" {
			a.Degraded = append(a.Degraded, &kdsv1.DegradedKind{Kind: k, Reason: reason})
			continue
		}
		agreed = append(agreed, k+"="+gd)
	}
	sum := sha256.Sum256([]byte(strings.Join(agreed, "\n")))
	a.Schema = hex.EncodeToString(sum[:8])
	return a
}

func byKind(list []*kdsv1.KindSchema) map[string]string {
	m := make(map[string]string, len(list))
	for _, s := range list {
		m[s.GetKind()] = string(s.GetDigest())
	}
	return m
}
