package universal

import (
	"net"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/mesh"
)

// Two proxies of one name would take the streams from each other again and again. The one that is there
// stays, and the other is refused for as long as the first is connected.

// Duplicate is a proxy that was refused, because another of its name is connected.
type Duplicate struct {
	Proxy mesh.Key
	// Connected and Refused are the addresses that they come from.
	Connected, Refused string

	at time.Time
}

const (
	// duplicateShown is how long a refusal is shown.
	duplicateShown = time.Minute
	// maxDuplicates bounds the refusals that are remembered.
	maxDuplicates = 100
)

// another says that o is the stream of another proxy than m's, and not one that reconnects: it comes from
// another host and has another address. mu is held.
func (m *member) another(o *member) bool {
	return !m.shared && !o.shared && m.address != "" && o.address != "" && m.address != o.address &&
		hostOf(m.peer) != hostOf(o.peer)
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// refuseDuplicate notes and answers a proxy whose name another one holds; mu is held.
func (r *Registry) refuseDuplicate(key mesh.Key, connected, refused string) error {
	d := Duplicate{
		Proxy:     key,
		Connected: connected,
		Refused:   refused,
		at:        time.Now(),
	}
	before := len(r.duplicates)
	r.duplicates = slices.DeleteFunc(r.duplicates, func(o Duplicate) bool {
		return o.Proxy == key && hostOf(o.Refused) == hostOf(refused)
	})
	if again := len(r.duplicates) < before; !again {
		r.log.Warn("refused a proxy: another of its name is connected", zap.Stringer("proxy", key),
			zap.String("connected", connected), zap.String("refused", refused))
	}
	if len(r.duplicates) >= maxDuplicates {
		r.duplicates = r.duplicates[1:]
	}
	r.duplicates = append(r.duplicates, d)
	return status.Errorf(codes.AlreadyExists, "a proxy of the name %s is connected from %s, and this one "+
		"comes from %s: stop one of them, or give this one another name", key.Name, connected, refused)
}

// Duplicates are the proxies that were refused of late, oldest first.
func (r *Registry) Duplicates() []Duplicate {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.duplicates = slices.DeleteFunc(r.duplicates,
		func(d Duplicate) bool { return time.Since(d.at) > duplicateShown })
	return slices.Clone(r.duplicates)
}
