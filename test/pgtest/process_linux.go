package pgtest

import "syscall"

// attributes run a process as cred (nil: as we are), in its own group so that an interrupt at the
// terminal is ours to handle, and end it with us.
func attributes(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true, Pdeathsig: syscall.SIGQUIT}
}
