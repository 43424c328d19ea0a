package child

import "syscall"

// attributes: a group of its own, so that an interrupt reaches the parent alone, and death with it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
