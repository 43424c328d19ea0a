package kds

import (
	"fmt"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/internal/hint"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// CloseError is a Close frame as an error.
type CloseError struct{ Close *kdsv1.Close }

func (e *CloseError) Error() string {
	return fmt.Sprintf("rejected (%s): %s", CodeText(e.Close.GetCode()), e.Close.GetReason())
}

// CodeText is a code in lower case, for people.
func CodeText(c kdsv1.Close_Code) string {
	return strings.ToLower(strings.TrimPrefix(c.String(), "CODE_"))
}

// CheckHello rejects a zone that says it is another than its credentials prove, or that is too old;
// nil admits it.
func CheckHello(h *kdsv1.Hello, authenticated string) *CloseError {
	switch {
	case h.GetZone() != authenticated:
		return &CloseError{&kdsv1.Close{
			Code:      kdsv1.Close_CODE_ZONE,
			Permanent: true,
			Reason: fmt.Sprintf(
				"this control plane says it is zone %q, but its credentials are those of zone %q: %s",
				h.GetZone(), authenticated, hint.ZoneName(h.GetZone(), authenticated)),
		}}
	case h.GetCapability() < MinCapability:
		return &CloseError{&kdsv1.Close{Code: kdsv1.Close_CODE_VERSION, Permanent: true, Reason: fmt.Sprintf(
			"zone %s runs version %q with capability %d, and this global needs at least %d: upgrade the zone",
			h.GetZone(), h.GetVersion(), h.GetCapability(), MinCapability)}}
	case h.GetEpoch() == 0:
		return &CloseError{&kdsv1.Close{
			Code:      kdsv1.Close_CODE_PROTOCOL,
			Permanent: true,
			Reason:    "hello without an epoch",
		}}
	}
	return nil
}

// CheckWelcome is the zone's side of CheckHello.
func CheckWelcome(w *kdsv1.Welcome) *CloseError {
	if w.GetCapability() < MinCapability {
		return &CloseError{&kdsv1.Close{
			Code:      kdsv1.Close_CODE_VERSION,
			Permanent: true,
			Reason: fmt.Sprintf(
				"global has capability %d, and this zone needs at least %d: upgrade global",
				w.GetCapability(), MinCapability),
		}}
	}
	return nil
}

// Fence admits one process per zone: that with the newest epoch. It is used under its owner's lock.
type Fence struct{ holders map[string]Holder }

// Holder is the process that holds a zone's name.
type Holder struct {
	Instance string
	Epoch    uint64
	// Store is the id of its store; empty if it does not say.
	Store string
	// Since is when it was first admitted.
	Since time.Time
}

// Holder of a zone's name, if there is one.
func (f *Fence) Holder(zone string) (Holder, bool) {
	h, ok := f.holders[zone]
	return h, ok
}

// Admit decides on a process that says it is zone. gone says that the present holder's lease has
// run out, so that an older process may come back, and one with another store. superseded says that the
// former holder must be ended, with the Close of [Fenced].
func (f *Fence) Admit(zone, instance string, epoch uint64, storeEpoch string, gone bool,
	now time.Time) (superseded bool, rejected *CloseError) {
	h, taken := f.holders[zone]
	id := StoreOf(storeEpoch)
	switch {
	case taken && h.Epoch == epoch && h.Instance == instance:
		return false, nil
	case taken && h.Epoch >= epoch && !gone:
		return false, Fenced(zone, h)
	case taken && !gone && id != "" && h.Store != "" && h.Store != id:
		return false, otherStore(zone, id, h)
	}
	if f.holders == nil {
		f.holders = map[string]Holder{}
	}
	f.holders[zone] = Holder{Instance: instance, Epoch: epoch, Store: id, Since: now}
	return taken, nil
}

// Fenced closes the stream of a process that by has taken a zone's name from.
func Fenced(zone string, by Holder) *CloseError {
	return &CloseError{&kdsv1.Close{
		Code:      kdsv1.Close_CODE_FENCED,
		Permanent: true,
		Reason: fmt.Sprintf(
			"zone name %q is held by instance %s, which started later (epoch %d): stop one of the "+
				"two, or give "+
				"this one another name and token",
			zone, by.Instance, by.Epoch),
	}}
}

// otherStore refuses a process that says it is a zone and has another store than its holder. It is not
// permanent: a zone that lost its store is admitted once the lease of its former process is over.
func otherStore(zone, id string, h Holder) *CloseError {
	return &CloseError{&kdsv1.Close{
		Code: kdsv1.Close_CODE_FENCED,
		Reason: fmt.Sprintf("zone name %q is held by instance %s with the store %s, and this process has "+
			"another store, %s: if it is a second one by mistake, stop it or give it another name and "+
			"token; if it replaces one that lost its store, it is admitted when the lease of that one is "+
			"over",
			zone, h.Instance, h.Store, id),
	}}
}
