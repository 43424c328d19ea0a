package validate

import (
	"regexp"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
)

var (
	dnsLabel   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	meshName   = regexp.MustCompile(`^[0-9a-z_.-]+$`)
	targetName = regexp.MustCompile(`^[0-9a-z.\-_]+$`)
	tagKey     = regexp.MustCompile(`^[a-zA-Z0-9.\-_:/]+$`)
	tagValue   = regexp.MustCompile(`^[a-zA-Z0-9.\-_:]+$`)
	labelName  = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
)

// ValidLabelKey says whether a key may be one of a label: an optional DNS prefix and "/", then a
// name of up to 63.
func ValidLabelKey(key string) bool {
	if prefix, name, ok := strings.Cut(key, "/"); ok {
		return mesh.IsDNSName(prefix) && len(name) <= 63 && labelName.MatchString(name)
	}
	return len(key) <= 63 && labelName.MatchString(key)
}

// ValidLabelValue says whether a value may be one of a label.
func ValidLabelValue(value string) bool {
	return value == "" || len(value) <= 63 && labelName.MatchString(value)
}
