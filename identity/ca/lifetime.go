package ca

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseLifetime reads a lifetime as a Mesh's mTLS backend gives it: a number and one of the units
// y, w, d, h, m, s, ms. "0" is 0, and a year has 365 days.
func ParseLifetime(text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	units := []struct {
		suffix string
		unit   time.Duration
	}{
		{"ms", time.Millisecond}, {"y", 365 * 24 * time.Hour}, {"w", 7 * 24 * time.Hour},
		{"d", 24 * time.Hour},
		{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second},
	}
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || n > uint64(math.MaxInt64/u.unit) {
			break
		}
		return time.Duration(n) * u.unit, nil
	}
	return 0, fmt.Errorf("%q is not a lifetime: write a number and one of y, w, d, h, m, s, ms, such as 24h",
		text)
}
