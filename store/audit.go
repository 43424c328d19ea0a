package store

import (
	"time"

	"github.com/meridian-mesh/meridian/mesh"
)

// AuditEntry is one row of the audit: who did what, or was refused. Rows are in no watch and in no
// history, and never leave the store by themselves. The JSON form is that of the audit file, too.
type AuditEntry struct {
	// ID ascends in the order of commits; the store gives it.
	ID uint64 `json:"id,omitempty"`
	// Time of the commit, in UTC with microseconds; the store gives it.
	Time time.Time `json:"time"`
	// Who is the caller's name; Groups are its groups.
	Who    string   `json:"who"`
	Groups []string `json:"groups,omitempty"`
	// From is the address that the call came from; empty if it came from within.
	From string `json:"from,omitempty"`
	// Action is one word: put, delete, issue, read, dump or call.
	Action string `json:"action"`
	// Kind and the rest name the resource; empty if it is about none, or about several.
	Kind      string `json:"kind,omitempty"`
	Mesh      string `json:"mesh,omitempty"`
	Zone      string `json:"zone,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// What else there is to say, such as what a token is for.
	What string `json:"what,omitempty"`
	// Refused is the reason if it was not done.
	Refused string `json:"refused,omitempty"`
	// Before and After are the revisions of the resource: 0 if there was none. The store gives them;
	// they are equal if nothing changed. After a delete it is that of the delete.
	Before uint64 `json:"before,omitempty"`
	After  uint64 `json:"after,omitempty"`
	// Unrecorded is how many refusals before this one have no row, since they came too fast.
	Unrecorded uint64 `json:"unrecorded,omitempty"`
}

// SetKey names the resource.
func (e *AuditEntry) SetKey(k mesh.Key) {
	e.Kind, e.Mesh, e.Zone, e.Namespace, e.Name = string(k.Kind), k.Mesh, k.Zone, k.Namespace, k.Name
}

// Key is the key of the resource; ok is false if the entry names none.
func (e *AuditEntry) Key() (k mesh.Key, ok bool) {
	k = mesh.Key{
		Kind:      mesh.Kind(e.Kind),
		Mesh:      e.Mesh,
		Zone:      e.Zone,
		Namespace: e.Namespace,
		Name:      e.Name,
	}
	_, err := k.Check()
	return k, err == nil
}

// Audit adds a row to the audit in the same transaction as the other operations: it is durable exactly if
// they are. If a check fails there is no row.
type Audit struct{ Entry AuditEntry }

func (Audit) op() {}

// AuditQuery selects rows of the audit.
type AuditQuery struct {
	// Below is an ID: only rows below it; 0 is all. The ID of a page's last row is the Below of the next.
	Below uint64
	// Since leaves out rows that are older.
	Since time.Time
	// Limit of the rows; 0 is without.
	Limit int
}
