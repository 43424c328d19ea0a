package kdsbench

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// wire is a TCP proxy that counts what passes.
type wire struct {
	listener net.Listener
	target   string
	bytes    atomic.Int64 // both directions
	cancel   context.CancelFunc
	group    sync.WaitGroup
}

// listen starts a wire from address to target; stop ends it.
func listen(address, target string) (*wire, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &wire{
		listener: l,
		target:   target,
		cancel:   cancel,
	}
	w.group.Go(func() { w.accept(ctx) })
	return w, nil
}

func (w *wire) stop() {
	w.cancel()
	_ = w.listener.Close()
	w.group.Wait()
}

func (w *wire) accept(ctx context.Context) {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return // closed by stop
		}
		w.group.Go(func() { w.carry(ctx, in) })
	}
}

// carry passes one connection on until either end closes it.
func (w *wire) carry(ctx context.Context, in net.Conn) {
	defer func() { _ = in.Close() }()
	out, err := new(net.Dialer).DialContext(ctx, "tcp", w.target)
	if err != nil {
		return // global is down; the zone dials again
	}
	defer func() { _ = out.Close() }()
	defer context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })()

	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, &counted{from, &w.bytes})
		_, _ = to.Close(), from.Close()
	}
	both.Go(func() { pass(out, in) })
	both.Go(func() { pass(in, out) })
	both.Wait()
}

// counted counts what is read from it.
type counted struct {
	from io.Reader
	sum  *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.sum.Add(int64(n))
	return n, err
}
