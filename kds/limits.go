package kds

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Bounds of what one side makes the other keep. What is over them is cut or left out, without an
// error: it is for people.
const (
	// MaxRejections that one peer can have standing.
	MaxRejections = 1000
	// MaxReason is the length of a reason, and of every other text that a peer writes for people, in bytes.
	MaxReason = 1 << 10
	// MaxPending is how many proxies a report of progress names.
	MaxPending = 20
	// MaxPins is how many certificate authorities a zone names.
	MaxPins = 16
)

// DefaultMaxBytes bounds what a Sink keeps for a peer that it does not trust; see [SinkConfig.MaxBytes].
const DefaultMaxBytes = 64 << 20

// cut shortens a text that a peer wrote.
func cut(text string) string {
	if len(text) <= MaxReason {
		return text
	}
	n := MaxReason - len("…")
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

func cutRejection(r *meshv1.Rejection) *meshv1.Rejection {
	if len(r.GetField()) > MaxReason || len(r.GetReason()) > MaxReason || len(r.GetResource()) > MaxReason ||
		len(r.GetOtherCauses()) > MaxPending {
		r = proto.CloneOf(r)
		r.Field, r.Reason, r.Resource = cut(r.GetField()), cut(r.GetReason()), cut(r.GetResource())
		r.OtherCauses = r.GetOtherCauses()[:min(MaxPending, len(r.GetOtherCauses()))]
	}
	return r
}

// CutProgress shortens a zone's report to what global keeps of it.
func CutProgress(p *kdsv1.Progress) {
	p.Pending = p.GetPending()[:min(MaxPending, len(p.GetPending()))]
	for i, name := range p.GetPending() {
		p.Pending[i] = cut(name)
	}
	p.Rejections = p.GetRejections()[:min(MaxRejections, len(p.GetRejections()))]
	for i, r := range p.GetRejections() {
		p.Rejections[i] = cutRejection(r)
	}
}

// CutHello shortens what a zone says about itself to what global keeps of it.
func CutHello(h *kdsv1.Hello) {
	h.Instance, h.Version, h.StoreId = cut(h.GetInstance()), cut(h.GetVersion()), cut(h.GetStoreId())
	h.CaPins = h.GetCaPins()[:min(MaxPins, len(h.GetCaPins()))]
	for i, pin := range h.GetCaPins() {
		h.CaPins[i] = cut(pin)
	}
}
