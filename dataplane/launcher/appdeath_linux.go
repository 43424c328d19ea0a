package launcher

import (
	"bufio"
	"context"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// listenerDeath returns a channel that is closed when a process that listens on the address dies.
// It never fires if the processes cannot be seen: another host, another user, another process
// namespace. Then the probes alone decide.
//
// The way there: the listening socket's inode from /proc/net/tcp, the processes that hold it from
// /proc/PID/fd, and a pidfd of each, which becomes readable when the process ends. The context
// releases all of it.
func listenerDeath(ctx context.Context, address string) <-chan struct{} {
	died := make(chan struct{})
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return died
	}
	inodes := listeningInodes(addr)
	if len(inodes) == 0 {
		return died
	}
	pids := holders(inodes)
	if len(pids) == 0 {
		return died
	}
	fired := make(chan struct{}, len(pids))
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			fired <- struct{}{} // it died between the two looks
			continue
		}
		f := os.NewFile(uintptr(fd), "pidfd")
		stop := context.AfterFunc(ctx, func() { _ = f.Close() })
		go func() {
			defer stop()
			conn, err := f.SyscallConn()
			if err != nil {
				return
			}
			if err := conn.Read(exited); err == nil {
				fired <- struct{}{}
				_ = f.Close()
			}
		}()
	}
	go func() {
		select {
		case <-fired:
			close(died)
		case <-ctx.Done():
		}
	}()
	return died
}

// exited says whether the process of a pidfd has ended.
func exited(fd uintptr) bool {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		if err == unix.EINTR {
			continue
		}
		return err != nil || n > 0
	}
}

// listeningInodes are the sockets that listen on the address, or on any address with its port.
func listeningInodes(addr netip.AddrPort) []string {
	var out []string
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			field := strings.Fields(lines.Text())
			// sl, local_address, rem_address, st (0A is LISTEN), …, inode
			if len(field) < 10 || field[3] != "0A" {
				continue
			}
			local, ok := parseLocal(field[1])
			if ok && local.Port() == addr.Port() &&
				(local.Addr() == addr.Addr() || local.Addr().IsUnspecified()) {
				out = append(out, field[9])
			}
		}
		_ = f.Close()
	}
	return out
}

// parseLocal reads "0100007F:1F90": the address in 32-bit words of the host's order, then the port.
func parseLocal(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.AddrPort{}, false
	}
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	ip, ok := netip.AddrFromSlice(raw)
	p, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), ok && err == nil
}

// holders are the processes, our own excepted, that have one of the sockets open.
func holders(inodes []string) []int {
	want := map[string]bool{}
	for _, inode := range inodes {
		want["socket:["+inode+"]"] = true
	}
	self := os.Getpid()
	var pids []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self {
			continue
		}
		dir := filepath.Join("/proc", e.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // another user's, or gone
		}
		for _, fd := range fds {
			if link, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && want[link] {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
