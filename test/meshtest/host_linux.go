package meshtest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Host is a machine of its own in a world: a network namespace behind one wire that can lose frames. Its
// namespace and its interfaces go with the test.
type Host struct {
	network string // 10.A.B
	next    int
	// processes are those that were started on it.
	processes []*os.Process
	// work runs on a thread that is in the namespace.
	work chan func()
	// toHost and fromHost are the frames of 1,000 that the wire loses in each direction.
	toHost, fromHost atomic.Int32
}

// NewHost makes a machine. Without the right to do that the test is skipped.
func NewHost(t *testing.T) *Host {
	t.Helper()
	h := &Host{
		network: fmt.Sprintf("10.%d.%d", 200+rand.IntN(50), 1+rand.IntN(250)),
		next:    1,
		work:    make(chan func()),
	}
	outer, name, err := tap()
	if err != nil {
		t.Skipf("a host needs the right to make network interfaces: %v", err)
	}
	t.Cleanup(func() { _ = outer.Close() })
	address(t, name, h.network+".1/24")

	entered, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		// Never unlocked: the thread ends with the goroutine, and with it the last hold on the namespace.
		runtime.LockOSThread()
		entered <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range h.work {
			f()
		}
	}()
	t.Cleanup(func() {
		close(h.work)
		<-ended
	})
	if err := <-entered; err != nil {
		t.Skipf("a host needs the right to make network namespaces: %v", err)
	}
	var inner *os.File
	h.in(func() {
		if inner, name, err = tap(); err == nil {
			address(t, "lo", "127.0.0.1/8")
			address(t, name, h.network+".2/24")
			for i := 3; i < 10; i++ {
				address(t, name, fmt.Sprintf("%s.%d/24", h.network, i))
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	carried := make(chan struct{}, 2)
	carry := func(to, from *os.File, lost *atomic.Int32) {
		_, _ = io.Copy(lossy{to, lost}, frames{from})
		carried <- struct{}{}
	}
	go carry(inner, outer, &h.toHost)
	go carry(outer, inner, &h.fromHost)
	t.Cleanup(func() {
		_, _ = inner.Close(), outer.Close()
		<-carried
		<-carried
	})
	return h
}

// Lose makes the wire lose so many frames of 1,000 in each direction from now on.
func (h *Host) Lose(toHost, fromHost int) {
	h.toHost.Store(int32(toHost))
	h.fromHost.Store(int32(fromHost))
}

// Freeze stops every process of the machine without a word (SIGSTOP), or lets all go on.
func (h *Host) Freeze(frozen bool) {
	sig := unix.SIGCONT
	if frozen {
		sig = unix.SIGSTOP
	}
	for _, p := range h.processes {
		_ = p.Signal(sig)
	}
}

// Address implements [Place].
func (h *Host) Address() string {
	h.next++
	return fmt.Sprintf("%s.%d", h.network, h.next)
}

func (h *Host) started(p *os.Process) { h.processes = append(h.processes, p) }

// in runs f in the host's namespace; processes and sockets that it makes are there.
func (h *Host) in(f func()) {
	done := make(chan struct{})
	h.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// forward makes an address of this process reachable from the host, and gives the host's name for it.
func (h *Host) forward(t *testing.T, target string) string {
	t.Helper()
	l, err := net.Listen("tcp", h.network+".1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go relay(c, target)
		}
	}()
	return l.Addr().String()
}

// relay ends when either side does.
func relay(c net.Conn, target string) {
	defer func() { _ = c.Close() }()
	s, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(s, c)
		_ = s.Close()
	}()
	_, _ = io.Copy(c, s)
}

// frames reads whole frames; lossy writes those that are not lost.
type frames struct{ io.Reader }

type lossy struct {
	io.Writer
	lost *atomic.Int32
}

func (l lossy) Write(frame []byte) (int, error) {
	if rand.Int32N(1000) < l.lost.Load() {
		return len(frame), nil
	}
	return l.Writer.Write(frame)
}

// tap makes an interface whose frames pass through the file; it goes with the file.
func tap() (*os.File, string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", err
	}
	r, err := unix.NewIfreq(fmt.Sprintf("mt%d", rand.IntN(1e9)))
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), "tap"), r.Name(), nil
}

// address gives an interface of the thread's namespace an address, and sets it up.
func address(t *testing.T, name, prefix string) {
	for _, args := range []string{"addr add " + prefix + " dev " + name, "link set " + name + " up"} {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		there := strings.Contains(string(out), "already") || strings.Contains(string(out), "exists")
		if err != nil && !there {
			t.Errorf("ip %s: %v: %s", args, err, out)
		}
	}
}
