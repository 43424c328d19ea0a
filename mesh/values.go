package mesh

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Number is the value of an integer or of a decimal as text. It is not ok if there is none.
func Number(p *meshv1.IntOrString) (float64, bool) {
	switch v := p.GetValue().(type) {
	case *meshv1.IntOrString_IntValue:
		return float64(v.IntValue), true
	case *meshv1.IntOrString_StringValue:
		f, err := strconv.ParseFloat(v.StringValue, 64)
		return f, err == nil && decimal.MatchString(v.StringValue)
	}
	return 0, false
}

var decimal = regexp.MustCompile(`^[+-]?[0-9]{1,9}(\.[0-9]{1,9})?$`)

// expiration is a number and one of the units y w d h m s ms, or 0.
var expiration = regexp.MustCompile(`^(0|([0-9]+(y|w|d|h|m|s|ms))+)$`)

// ParseExpiration reads the lifetimes of certificates in a Mesh, such as "24h", "10y" or "1d12h":
// numbers with the units y (365 days), w, d, h, m, s and ms. Empty and "0" are 0, which means the
// default.
func ParseExpiration(s string) (time.Duration, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	if !expiration.MatchString(s) {
		return 0, fmt.Errorf("%q is not a lifetime: use numbers with the units y, w, d, h, m, s or ms", s)
	}
	day := 24 * time.Hour
	units := map[string]time.Duration{"y": 365 * day, "w": 7 * day, "d": day, "h": time.Hour,
		"m": time.Minute, "s": time.Second, "ms": time.Millisecond}
	var total time.Duration
	for s != "" {
		n := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		number := s[:n]
		s = s[n:]
		end := strings.IndexFunc(s, func(r rune) bool { return r >= '0' && r <= '9' })
		if end < 0 {
			end = len(s)
		}
		unit := units[s[:end]]
		s = s[end:]
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil || v > int64((1<<63-1-total)/unit) {
			return 0, fmt.Errorf("%q is longer than can be counted", number)
		}
		total += time.Duration(v) * unit
	}
	return total, nil
}

var bandwidth = regexp.MustCompile(`^([0-9]{1,9})\s?(k|M|G)bps$`)

// BandwidthKiB reads a bandwidth such as "50 kbps" (bits a second, steps of 1000) in KiB a second,
// rounded and at least 1, which is what Envoy counts in. It is not ok if the text
// is none or is 0.
func BandwidthKiB(s string) (kib uint64, ok bool) {
	m := bandwidth.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil || n == 0 {
		return 0, false
	}
	bits := float64(n) * map[string]float64{"k": 1e3, "M": 1e6, "G": 1e9}[m[2]]
	return max(1, uint64(math.Round(bits/8/1024))), true
}

// IsStatusCode says that s is a registered status code of HTTP.
func IsStatusCode(s string) bool {
	code, err := strconv.ParseUint(s, 10, 16)
	if err != nil || len(s) != 3 {
		return false
	}
	return slices.ContainsFunc([][2]uint64{{100, 103}, {200, 208}, {226, 226}, {300, 305}, {307, 308},
		{400, 418}, {421, 426}, {428, 429},
		{431, 431}, {451, 451}, {500, 508}, {510, 511}},
		func(r [2]uint64) bool { return r[0] <= code && code <= r[1] })
}
