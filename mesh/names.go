package mesh

import "regexp"

var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// IsDNSName reports whether s is a DNS name in lower case, of at most 253 characters.
func IsDNSName(s string) bool { return len(s) <= 253 && dnsName.MatchString(s) }
