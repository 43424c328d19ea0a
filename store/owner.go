package store

import "fmt"

// Roles that own a store.
const (
	RoleGlobal = "global"
	RoleZone   = "zone"
)

// Owner is the control plane that a store belongs to: that of a role and, if it is a zone, of a name. The
// first control plane that opens a store owns it. The zero Owner opens any.
type Owner struct {
	Role string
	// Zone is empty unless Role is RoleZone.
	Zone string
}

// String is the owner in words, such as "global" or "zone east".
func (o Owner) String() string {
	if o.Zone == "" {
		return o.Role
	}
	return o.Role + " " + o.Zone
}

// Check refuses, with [*OwnerError], to open a store of another owner. claim says that the store has none
// yet and is o's from now on.
func (o Owner) Check(of Owner) (claim bool, err error) {
	switch {
	case o == (Owner{}) || o == of:
		return false, nil
	case of == (Owner{}):
		return true, nil
	}
	return false, &OwnerError{Owner: of, Opener: o}
}

// OwnerError says that a store belongs to another control plane than the one that opens it.
type OwnerError struct{ Owner, Opener Owner }

func (e *OwnerError) Error() string {
	return fmt.Sprintf("the store belongs to %s, and this process is %s; nothing was changed", e.Owner,
		e.Opener)
}
