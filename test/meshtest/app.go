package meshtest

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Answer is what an App says of itself and of the request that reached it.
type Answer struct {
	Instance string
	Method   string
	// Path is the path with its query.
	Path   string
	Host   string
	Header http.Header
}

// App is the program of a workload.
type App struct {
	name, address string
	tcp           bool
	place         Place
	// MaxStreams of each HTTP/2 connection; 0 is many. It counts from the next Start.
	MaxStreams int

	handler  atomic.Pointer[http.HandlerFunc]
	requests atomic.Int64

	mu     sync.Mutex
	server *http.Server
	l      net.Listener
	conns  map[net.Conn]bool
	serves sync.WaitGroup
}

// Start begins to listen, if it does not yet.
func (a *App) Start(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.l != nil {
		return
	}
	var l net.Listener
	var err error
	at(a.place, func() { l, err = net.Listen("tcp", a.address) })
	if err != nil {
		t.Fatal(err)
	}
	a.l, a.conns = l, map[net.Conn]bool{}
	if a.tcp {
		a.serves.Go(func() { a.accept(l) })
		return
	}
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	a.server = &http.Server{
		Protocols: &p,
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: a.MaxStreams},
		Handler:   http.HandlerFunc(a.serve),
	}
	s := a.server
	a.serves.Go(func() { _ = s.Serve(l) })
}

// Stop ends listening and closes what is open.
func (a *App) Stop() {
	a.mu.Lock()
	if a.l == nil {
		a.mu.Unlock()
		return
	}
	_ = a.l.Close()
	if a.server != nil {
		_ = a.server.Close()
	}
	for c := range a.conns {
		_ = c.Close()
	}
	a.l, a.server, a.conns = nil, nil, nil
	a.mu.Unlock()
	a.serves.Wait()
}

// StopAnswering leaves the address with a full backlog: a client that connects waits without limit. It
// holds until the test ends.
func (a *App) StopAnswering(t *testing.T) {
	t.Helper()
	a.Stop()
	address := netip.MustParseAddrPort(a.address)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{
		Port: int(address.Port()),
		Addr: address.Addr().As4(),
	}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 4 { // the first one or two fill it
		c, err := net.DialTimeout("tcp", a.address, 200*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the backlog does not fill")
}

// Handle decides how to answer until the test ends; [App.Echo] is what it does else.
func (a *App) Handle(t *testing.T, h http.HandlerFunc) {
	a.handler.Store(&h)
	t.Cleanup(func() { a.handler.CompareAndSwap(&h, nil) })
}

// Fail answers with a status until the test ends, or until it is called with 200.
func (a *App) Fail(t *testing.T, status int) {
	if status == http.StatusOK {
		a.handler.Store(nil)
		return
	}
	a.Handle(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

// Requests so far, of TCP: connections.
func (a *App) Requests() int { return int(a.requests.Load()) }

func (a *App) serve(w http.ResponseWriter, r *http.Request) {
	a.requests.Add(1)
	if h := a.handler.Load(); h != nil {
		(*h)(w, r)
		return
	}
	a.Echo(w, r)
}

// Echo answers with what the request was when it came.
func (a *App) Echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(Answer{
		Instance: a.name,
		Method:   r.Method,
		Path:     r.URL.RequestURI(),
		Host:     r.Host,
		Header:   r.Header,
	})
}

// accept says its name to every connection, and then what it hears.
func (a *App) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		if a.l != l {
			a.mu.Unlock()
			_ = c.Close()
			return
		}
		a.conns[c] = true
		a.mu.Unlock()
		a.requests.Add(1)
		a.serves.Go(func() {
			_, _ = io.WriteString(c, a.name+"\n")
			_, _ = io.Copy(c, c)
			_ = c.Close()
			a.mu.Lock()
			delete(a.conns, c)
			a.mu.Unlock()
		})
	}
}

// FailAt answers one path with a status, and the others as ever, until the test ends.
func (a *App) FailAt(t *testing.T, path string, status int) {
	a.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path && status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		a.Echo(w, r)
	})
}

// Paths counts requests by path from now on, until another call changes that.
func (a *App) Paths(t *testing.T) (count func(path string) int) {
	var mu sync.Mutex
	seen := map[string]int{}
	a.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.URL.Path]++
		mu.Unlock()
		a.Echo(w, r)
	})
	return func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[path]
	}
}
