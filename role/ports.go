package role

import (
	"context"
	"errors"
	"fmt"
	"net"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/listen"
	"github.com/meridian-mesh/meridian/internal/localapi"
)

// Names of ports in [ControlPlane.Addresses]. The flag of each is its name and "-addr".
const (
	PortAPI         = "api"
	PortAPITLS      = "api-tls"
	PortKDS         = "kds"
	PortXDS         = "xds"
	PortDiagnostics = "diagnostics"
)

// portSocket is the UNIX socket of the API, in the data directory.
const portSocket = "api-socket"

// port is an address and what is served there.
type port struct {
	name     string
	address  string
	serve    func(ctx context.Context, l net.Listener) error
	listener net.Listener
}

// AddPort has serve own a listener on the address; an empty address turns the port off. Call it before
// Listen. serve closes the listener and returns when its context ends.
func (p *ControlPlane) AddPort(name, address string,
	serve func(ctx context.Context, l net.Listener) error) {
	if address != "" {
		p.ports = append(p.ports, &port{name: name, address: address, serve: serve})
	}
}

// Listen opens the ports, all or none. [ControlPlane.Run] does it unless it was done before; call it
// first to know the addresses, or that one is in use, before anything runs.
func (p *ControlPlane) Listen(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listening {
		return nil
	}
	for _, o := range p.ports {
		l, err := p.open(ctx, o)
		if err != nil {
			p.closePorts()
			for _, o := range p.ports {
				o.listener = nil
			}
			return explainListen(o, err)
		}
		o.listener = l
		p.log.Info("listening", zap.String("port", o.name), zap.Stringer("address", l.Addr()))
	}
	p.listening = true
	return nil
}

func (p *ControlPlane) open(ctx context.Context, o *port) (net.Listener, error) {
	if o.name != portSocket {
		return listen.Open(ctx, o.address)
	}
	address := ""
	for _, other := range p.ports {
		if other.name == PortAPI && other.listener != nil {
			address = other.listener.Addr().String()
		}
	}
	return localapi.Open(o.address, address)
}

func explainListen(o *port, err error) error {
	if o.name == portSocket {
		return fmt.Errorf("--data-dir: listen on %s in %s: %w", localapi.SocketFile, o.address, err)
	}
	flag := "--" + o.name + "-addr"
	var inUse *listen.InUseError
	if errors.As(err, &inUse) {
		return fmt.Errorf("%s %s is in use by %s; stop it, or choose another address with %s "+
			"(HOST:0 picks a free port): %w", flag, o.address, inUse.Holder, flag, inUse.Err)
	}
	return fmt.Errorf("%s %s: %w", flag, o.address, err)
}

// closePorts closes what is open; mu is held.
func (p *ControlPlane) closePorts() {
	for _, o := range p.ports {
		if o.listener != nil {
			_ = o.listener.Close()
		}
	}
}

// Addresses are those that the ports listen on, by name; empty before Listen.
func (p *ControlPlane) Addresses() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]string{}
	for _, o := range p.ports {
		if o.listener != nil && o.name != portSocket {
			out[o.name] = o.listener.Addr().String()
		}
	}
	return out
}
