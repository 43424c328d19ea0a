//go:build unix && !linux

package pgtest

import "syscall"

// attributes run a process as cred (nil: as we are), in its own group so that an interrupt at the
// terminal is ours to handle.
func attributes(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true}
}
