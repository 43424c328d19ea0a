package demo

import "syscall"

// attributes: a group of its own, so that ^C reaches the demo alone, and death with the demo.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
