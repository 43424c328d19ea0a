//go:build unix && !linux

package pgserver

import "syscall"

// attributes run a process as cred (nil: as we are), in its own process group, so that an
// interrupt at the terminal reaches only this process.
func attributes(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true}
}
