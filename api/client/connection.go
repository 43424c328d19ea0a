package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/meridian-mesh/meridian/internal/localapi"
)

// Errors of a connection that reached something other than the API.
var (
	errTLS    = errors.New("it answers with TLS; use https://, and mind the port")
	errPlain  = errors.New("it answers without TLS; use http://, and mind the port")
	errClosed = errors.New("it closed the connection without an answer, as a port with TLS does; try " +
		"https://, and mind the port")
	errHTTP1 = errors.New("it answers with HTTP/1, as the diagnostics port and most web servers do")
)

// ports is what a user who has the wrong one needs to know.
const ports = "the API of a control plane is on port 5681 (http) and 5682 (https); 5678 is for proxies, " +
	"5685 for zones, 5680 for health and metrics"

// connection remembers why the last attempt to connect failed. gRPC only passes on the text of such errors,
// in words that speak of its own parts.
type connection struct {
	address string
	dataDir string
	// cleartext says that no TLS is expected.
	cleartext bool
	failure   atomic.Pointer[error]
}

func (c *connection) fail(err error) error {
	c.failure.Store(&err)
	return err
}

// options make gRPC dial through c.
func (c *connection) options(creds credentials.TransportCredentials) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithContextDialer(c.dial),
		grpc.WithTransportCredentials(&handshaker{creds, c}),
	}
}

func (c *connection) dial(ctx context.Context, address string) (net.Conn, error) {
	c.failure.Store(nil)
	var conn net.Conn
	var err error
	if c.dataDir != "" {
		conn, err = localapi.Dial(c.dataDir)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, c.fail(err)
	}
	if !c.cleartext {
		return conn, nil
	}
	return &firstBytes{Conn: conn, connection: c}, nil
}

// explain gives err, if it is about the connection and not an answer of the API, a title and a detail.
func (c *connection) explain(e *Error) {
	switch {
	case e.Code == codes.Unavailable:
		e.Title = "Could not reach the control plane at " + c.address
		if failure := c.failure.Load(); failure != nil {
			e.Detail = reason(*failure) + "; " + ports
		}
	case e.Code == codes.Unimplemented:
		e.Title = c.address + " is not the API of a control plane, or of an older one"
		e.Detail = ports
	}
}

// reason leaves out what the title says already: the address, and that it was dialled.
func reason(err error) string {
	var call *os.SyscallError
	var dial *net.OpError
	switch {
	case errors.As(err, &call):
		return call.Err.Error()
	case errors.As(err, &dial):
		return dial.Err.Error()
	}
	return err.Error()
}

// handshaker reports what went wrong in a handshake.
type handshaker struct {
	credentials.TransportCredentials

	connection *connection
}

func (h *handshaker) ClientHandshake(ctx context.Context, authority string,
	conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, conn)
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &header):
		err = h.connection.fail(errPlain)
	case err != nil:
		err = h.connection.fail(fmt.Errorf("TLS handshake: %w", err))
	}
	return secured, info, err
}

func (h *handshaker) Clone() credentials.TransportCredentials {
	return &handshaker{h.TransportCredentials.Clone(), h.connection}
}

// firstBytes looks at the first bytes that the server sends, which tell HTTP/2 from what it may be instead.
type firstBytes struct {
	net.Conn

	connection *connection
	seen       bool
}

func (f *firstBytes) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if !f.seen && errors.Is(err, io.EOF) {
		_ = f.connection.fail(errClosed)
	}
	if n > 0 && !f.seen {
		f.seen = true
		switch {
		case bytes.HasPrefix(p[:n], []byte("HTTP/1")):
			_ = f.connection.fail(errHTTP1)
		case p[0] == recordAlert || p[0] == recordHandshake:
			_ = f.connection.fail(errTLS)
		}
	}
	return n, err
}

// Types of a TLS record (RFC 8446, section 5.1). No HTTP/2 connection begins with them: its first frame is
// SETTINGS, whose length begins with 0.
const (
	recordAlert     = 21
	recordHandshake = 22
)
