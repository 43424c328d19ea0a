package kdsrpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// callTimeout bounds a tunnelled call whose caller gave no deadline, and every call at the zone.
const callTimeout = 30 * time.Second

// maxCalls that a zone serves at once; more are refused as busy.
const maxCalls = 32

// tunnel hands calls to the owner of an Admin stream.
type tunnel struct {
	calls chan *call
	done  <-chan struct{}
}

type call struct {
	ctx     context.Context
	method  string
	request []byte
	answer  chan *kdsv1.AdminAnswer // buffered
}

// Call makes a unary call of the admin API in a zone. Errors are gRPC statuses: those of the zone,
// Unavailable if the zone is not connected, DeadlineExceeded if it does not answer within ctx or half a
// minute.
func (s *Server) Call(ctx context.Context, zoneName, method string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s.mu.Lock()
	var t *tunnel
	if z := s.zones[zoneName]; z != nil {
		t = z.admin
	}
	s.mu.Unlock()
	away := func() error {
		return status.Errorf(codes.Unavailable,
			"zone %s is not connected to this global, so %s cannot reach it; try again when it is Online",
			zoneName, method)
	}
	if t == nil {
		return nil, away()
	}
	c := &call{
		ctx:     ctx,
		method:  method,
		request: request,
		answer:  make(chan *kdsv1.AdminAnswer, 1),
	}
	select {
	case t.calls <- c:
	case <-t.done:
		return nil, away()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	select {
	case a := <-c.answer:
		if a.GetCode() != 0 {
			return nil, status.Error(codes.Code(a.GetCode()), a.GetMessage())
		}
		return a.GetResponse(), nil
	case <-t.done:
		return nil, status.Errorf(codes.Unavailable, "zone %s disconnected before it answered %s", zoneName,
			method)
	case <-ctx.Done():
		return nil, status.Error(status.FromContextError(ctx.Err()).Code(),
			fmt.Sprintf("zone %s did not answer %s in time", zoneName, method))
	}
}

// Admin serves one zone's Admin stream.
func (s *Server) Admin(st grpc.BidiStreamingServer[kdsv1.AdminFrame, kdsv1.AdminFrame]) error {
	return statusOf(s.admin(st))
}

func (s *Server) admin(st grpc.BidiStreamingServer[kdsv1.AdminFrame, kdsv1.AdminFrame]) error {
	name, err := s.authenticate(st.Context())
	if err != nil {
		return err
	}
	base, end := context.WithCancel(st.Context())
	defer end()
	l := newLink[kdsv1.AdminFrame](base, st)
	var first *kdsv1.AdminFrame
	select {
	case first = <-l.in:
	case err := <-l.errs:
		return err
	case <-base.Done():
		return context.Cause(base)
	case <-time.After(s.cfg.Lease):
		return status.Error(codes.DeadlineExceeded, "no Hello")
	}
	hello, _, err := s.greet(base, name, first.GetHello())
	if err != nil {
		return err
	}
	ctx, release, err := s.attach(base, streamAdmin, hello)
	if err != nil {
		return err
	}
	defer release()
	done := make(chan struct{})
	t := &tunnel{calls: make(chan *call), done: done}
	s.setTunnel(name, nil, t)
	defer func() { s.setTunnel(name, t, nil); close(done) }()
	return s.ownAdmin(ctx, l, t)
}

// setTunnel replaces the zone's tunnel if it is still old.
func (s *Server) setTunnel(name string, old, t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if z := s.zones[name]; old == nil || z.admin == old {
		z.admin = t
	}
}

func (s *Server) ownAdmin(ctx context.Context, l *link[kdsv1.AdminFrame], t *tunnel) error {
	waiting := map[uint64]*call{}
	var id uint64
	// The first heartbeat answers Hello.
	next := &kdsv1.AdminFrame{Message: &kdsv1.AdminFrame_Heartbeat{Heartbeat: heartbeat().GetHeartbeat()}}
	for {
		var out chan *kdsv1.AdminFrame
		calls := t.calls
		if next != nil {
			out, calls = l.out, nil
		}
		select {
		case out <- next:
			next = nil
		case c := <-calls:
			for id, c := range waiting {
				if c.ctx.Err() != nil {
					delete(waiting, id)
				}
			}
			id++
			waiting[id] = c
			next = &kdsv1.AdminFrame{
				Id:      id,
				Message: &kdsv1.AdminFrame_Call{Call: &kdsv1.AdminCall{Method: c.method, Request: c.request}},
			}
			if proto.Size(next) > MaxMessage {
				c.answer <- &kdsv1.AdminAnswer{
					Code:    uint32(codes.ResourceExhausted),
					Message: "the request is over the message limit",
				}
				delete(waiting, id)
				next = nil
			}
		case f := <-l.in:
			if a := f.GetAnswer(); a != nil {
				if c := waiting[f.GetId()]; c != nil {
					c.answer <- a
					delete(waiting, f.GetId())
				}
			}
		case err := <-l.errs:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// serveAdmin is the zone's end of the tunnel.
func (c *Client) serveAdmin(ctx context.Context, client kdsv1.KdsServiceClient, up func()) error {
	ctx, end := context.WithCancel(ctx)
	st, err := client.Admin(ctx)
	if err != nil {
		end()
		return err
	}
	l := newLink[kdsv1.AdminFrame](ctx, st)
	answers := make(chan *kdsv1.AdminFrame)
	running := 0
	defer func() {
		end()
		for ; running > 0; running-- {
			<-answers
		}
	}()
	next := &kdsv1.AdminFrame{Message: &kdsv1.AdminFrame_Hello{Hello: c.hello(nil)}}
	welcomed := false
	var ready []*kdsv1.AdminFrame
	for {
		if next == nil && len(ready) > 0 {
			next, ready = ready[0], ready[1:]
		}
		var out chan *kdsv1.AdminFrame
		if next != nil {
			out = l.out
		}
		select {
		case out <- next:
			next = nil
		case a := <-answers:
			running--
			ready = append(ready, a)
		case f := <-l.in:
			if !welcomed {
				welcomed = true
				up()
			}
			if call := f.GetCall(); call != nil {
				if running+len(ready) >= maxCalls {
					ready = append(ready,
						answerFrame(f.GetId(), nil,
							status.Errorf(codes.ResourceExhausted,
								"zone %s already serves %d calls; try again", c.cfg.Zone, maxCalls)))
					continue
				}
				running++
				go func() { answers <- c.answer(ctx, f.GetId(), call) }()
			}
		case err := <-l.errs:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *Client) answer(ctx context.Context, id uint64, call *kdsv1.AdminCall) *kdsv1.AdminFrame {
	if c.cfg.Admin == nil {
		return answerFrame(id, nil, status.Error(codes.Unimplemented, "this zone serves no admin calls"))
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.cfg.Admin(ctx, call.GetMethod(), call.GetRequest())
	if err == nil && len(resp) > MaxMessage-1024 {
		err = status.Errorf(codes.ResourceExhausted,
			"the answer of %d bytes is over the message limit; ask for less", len(resp))
	}
	return answerFrame(id, resp, err)
}

func answerFrame(id uint64, resp []byte, err error) *kdsv1.AdminFrame {
	a := &kdsv1.AdminAnswer{Response: resp}
	if err != nil {
		st, _ := status.FromError(err)
		a = &kdsv1.AdminAnswer{Code: uint32(st.Code()), Message: st.Message()}
	}
	return &kdsv1.AdminFrame{Id: id, Message: &kdsv1.AdminFrame_Answer{Answer: a}}
}
