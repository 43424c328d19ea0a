//go:build !linux

package launcher

import (
	"strings"
	"syscall"
)

// childAttributes: a process group of its own, so that a terminal's ^C reaches the launcher alone.
// There is no parent-death signal here: a killed launcher leaves Envoy behind.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// childEnvironment leaves out our own variables: one of them may be the token.
func childEnvironment(environ []string) []string {
	var out []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "MERIDIAN_") {
			out = append(out, kv)
		}
	}
	return out
}
