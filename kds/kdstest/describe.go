package kdstest

import (
	"fmt"
	"strings"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
)

// Describe is a frame in one line, without store ids and times.
func Describe(f *kdsv1.Frame) string {
	switch m := f.GetMessage().(type) {
	case *kdsv1.Frame_Reset_:
		return fmt.Sprintf("Reset{%s}", kds.ReasonText(m.Reset_.GetReason()))
	case *kdsv1.Frame_Items:
		return "Items{" + items(m.Items.GetItems()) + "}"
	case *kdsv1.Frame_Bookmark:
		return fmt.Sprintf("Bookmark{%d}", m.Bookmark.GetRevision())
	case *kdsv1.Frame_Delta:
		d := m.Delta
		parts := []string{fmt.Sprintf("%d..%d", d.GetFrom(), d.GetRevision())}
		if len(d.GetUpserts()) > 0 {
			parts = append(parts, items(d.GetUpserts()))
		}
		for _, k := range d.GetDeletes() {
			parts = append(parts, "-"+short(mesh.KeyFromProto(k)))
		}
		if len(d.GetCompleteKinds()) > 0 {
			parts = append(parts, "all of "+strings.Join(d.GetCompleteKinds(), ","))
		}
		return "Delta{" + strings.Join(parts, " ") + "}"
	case *kdsv1.Frame_Ack:
		return fmt.Sprintf("Ack{%d}", m.Ack.GetRevision())
	case *kdsv1.Frame_Nack:
		var parts []string
		for _, r := range m.Nack.GetRejections() {
			parts = append(parts,
				fmt.Sprintf("%s %q: %s", short(mesh.KeyFromProto(r.GetCause())), r.GetField(), r.GetReason()))
		}
		return fmt.Sprintf("Nack{%d %s}", m.Nack.GetRevision(), strings.Join(parts, "; "))
	case *kdsv1.Frame_Digest:
		if m.Digest.Summary != nil {
			return fmt.Sprintf("Digest{%d of all}", m.Digest.GetRevision())
		}
		var parts []string
		for _, k := range m.Digest.GetKinds() {
			parts = append(parts, fmt.Sprintf("%s:%d", k.GetKind(), k.GetCount()))
		}
		return fmt.Sprintf("Digest{%d %s}", m.Digest.GetRevision(), strings.Join(parts, " "))
	case *kdsv1.Frame_ResetKind:
		return fmt.Sprintf("ResetKind{%s}", m.ResetKind.GetKind())
	}
	return fmt.Sprintf("%T", f.GetMessage())
}

func items(list []*kdsv1.Item) string {
	parts := make([]string, len(list))
	for i, item := range list {
		parts[i] = fmt.Sprintf("+%s@%d", short(mesh.KeyFromProto(item.GetResource().GetKey())),
			item.GetVersion())
	}
	return strings.Join(parts, " ")
}

// short is Kind/name or Kind/zone/name.
func short(k mesh.Key) string {
	if k.Zone == "" {
		return string(k.Kind) + "/" + k.Name
	}
	return string(k.Kind) + "/" + k.Zone + "/" + k.Name
}

func operations(t store.Txn) string {
	var parts []string
	for _, op := range t.Ops {
		switch op := op.(type) {
		case store.Put:
			parts = append(parts, "put "+short(op.Resource.Key))
		case store.PutStatus:
			parts = append(parts, "status "+short(op.Key))
		case store.Delete:
			parts = append(parts, "delete "+short(op.Key))
		case store.SetMeta:
			parts = append(parts, "cursor")
		}
	}
	return strings.Join(parts, ", ")
}
