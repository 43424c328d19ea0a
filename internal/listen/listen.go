// Package listen opens the listeners of a control plane and serves HTTP and gRPC on them until a
// context ends.
//
// A taken address is an [InUseError], which names the process that holds it where the system tells.
// Serving has one owner: [HTTP] and [GRPC] block, and end when their context does.
//
// No example: a server that ends with its context needs one of both.
package listen

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// InUseError says that an address is taken.
type InUseError struct {
	Address string
	// Holder is the process that listens there, such as "envoy (process 123)", or "another process".
	Holder string
	// Err is that of the system; it is syscall.EADDRINUSE.
	Err error
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("the port of %s is in use by %s: %v", e.Address, e.Holder, e.Err)
}

// Unwrap returns the error of the system.
func (e *InUseError) Unwrap() error { return e.Err }

// Open listens on a TCP address; port 0 picks a free one. A taken address is an [*InUseError].
func Open(ctx context.Context, address string) (net.Listener, error) {
	var cfg net.ListenConfig
	l, err := cfg.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &InUseError{
			Address: address,
			Holder:  cmp.Or(holder(address), "another process"),
			Err:     err,
		}
	}
	return l, err
}

// stopTime is how long running requests have to end.
const stopTime = 3 * time.Second

// HTTP serves handler on l, with TLS unless t is nil, until ctx ends; then it lets running requests end.
func HTTP(ctx context.Context, l net.Listener, t *tls.Config, handler http.Handler) error {
	s := &http.Server{
		Handler:           handler,
		TLSConfig:         t,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	done := make(chan error, 1)
	go func() {
		if t != nil {
			done <- s.ServeTLS(l, "", "")
		} else {
			done <- s.Serve(l)
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if err := s.Shutdown(stop); err != nil {
		_ = s.Close()
	}
	<-done
	return ctx.Err()
}

// GRPC serves s on l until ctx ends; then it ends all streams, for they live as long as their clients.
func GRPC(ctx context.Context, l net.Listener, s *grpc.Server) error {
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	s.Stop()
	<-done
	return ctx.Err()
}
