// Package listen opens the listeners of a control plane and serves HTTP and gRPC on them until a
// context ends.
//
// An address that is taken is an error that a person can act on: it names the flag, the address
// and, where the system tells, the process that holds it. Serving has one owner: the Serve
// functions block, and end when ctx does.
package listen

import (
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

// Open listens on a TCP address; port 0 picks one. flag is what a person would change, such as "--api-addr".
func Open(ctx context.Context, flag, address string) (net.Listener, error) {
	var conf net.ListenConfig
	l, err := conf.Listen(ctx, "tcp", address)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: %w", flag, address, err)
	}
	who := "another process"
	if holder := holder(address); holder != "" {
		who = holder
	}
	return nil, fmt.Errorf("%s %s: the port is in use by %s; stop it, or choose another port "+
		"(host:0 picks a "+
		"free one): %w", flag, address, who, err)
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
