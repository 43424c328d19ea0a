package universal

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

// uncleanGoodbye is how long a draining launcher whose session broke has to come back.
const uncleanGoodbye = time.Second

// session is a launcher's.
type session struct {
	stream *stream
	// instance is the launcher's process, and address where it comes from.
	instance, address string
	// version of the launcher; answers says that it can be asked for what Envoy's admin interface says.
	version string
	answers bool

	mu    sync.Mutex
	next  uint64          // guarded by mu
	asked map[uint64]*ask // guarded by mu
	ended bool            // guarded by mu
}

// ask is a question that waits for its answer.
type ask struct {
	body []byte
	err  error
	done chan struct{}
}

// Register puts the DataplaneService on a server.
func (r *Registry) Register(s grpc.ServiceRegistrar) {
	dataplanev1.RegisterDataplaneServiceServer(s, sessions{registry: r})
}

// sessions is the DataplaneService.
type sessions struct {
	dataplanev1.UnimplementedDataplaneServiceServer
	registry *Registry
}

// stream is a session's stream; Send may be called by several goroutines.
type stream struct {
	dataplanev1.DataplaneService_SessionServer
	mu sync.Mutex
}

func (s *stream) send(m *dataplanev1.SessionResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Send(m)
}

// typeOf is a proxy type as node metadata and tokens have it; empty if it is not given.
func typeOf(t dataplanev1.ProxyType) string {
	switch t {
	case dataplanev1.ProxyType_PROXY_TYPE_UNSPECIFIED:
		return ""
	case dataplanev1.ProxyType_PROXY_TYPE_DATAPLANE:
		return typeDataplane
	case dataplanev1.ProxyType_PROXY_TYPE_INGRESS:
		return typeIngress
	case dataplanev1.ProxyType_PROXY_TYPE_EGRESS:
		return typeEgress
	}
	return t.String()
}

// Session implements the DataplaneService.
func (s sessions) Session(raw dataplanev1.DataplaneService_SessionServer) error {
	r := s.registry
	first, err := raw.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a session is hello")
	}
	who, err := r.check(raw.Context(), claim{
		NodeID:    hello.GetNodeId(),
		ProxyType: typeOf(hello.GetProxyType()),
		Resource:  hello.GetResource(),
		Token:     tokenOf(raw.Context()),
	})
	if err != nil {
		r.log.Info("refused a launcher", zap.String("node", hello.GetNodeId()), zap.Error(err))
		return err
	}
	st := &stream{DataplaneService_SessionServer: raw}
	mine := &session{
		stream:  st,
		version: hello.GetLauncherVersion(),
		answers: hello.GetAnswersAdmin(),
		asked:   map[uint64]*ask{},

		instance: hello.GetLauncherInstance(),
		address:  peerOf(raw.Context()),
	}
	r.mu.Lock()
	p := r.entry(who.resource.Key)
	if other := p.session; other != nil && other.instance != mine.instance && other.instance != "" &&
		mine.instance != "" {
		err := r.refuseDuplicate(p.key, other.address, mine.address)
		r.mu.Unlock()
		return err
	}
	p.session = mine
	p.draining, p.goodbye = false, time.Time{}
	p.launcherVersion, p.envoyVersion = hello.GetLauncherVersion(), hello.GetEnvoyVersion()
	r.mu.Unlock()
	r.notify()

	err = st.send(&dataplanev1.SessionResponse{Accepted: true, Zone: r.cfg.Zone})
	if err == nil {
		err = r.reports(st, p, mine)
	}
	mine.end()
	r.endSession(p, mine, errors.Is(err, io.EOF))
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

func tokenOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("authorization"); len(v) > 0 {
		return v[0]
	}
	return ""
}

// reports takes reports until the session ends; io.EOF says that the launcher closed it.
func (r *Registry) reports(st *stream, p *proxy, mine *session) error {
	ctx, cancel := context.WithCancel(st.Context())
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	told := false
	for {
		msg, err := st.Recv()
		if err != nil {
			return err
		}
		if a := msg.GetAdminAnswer(); a != nil {
			mine.take(a)
			continue
		}
		report := msg.GetReport()
		if report == nil {
			return status.Error(codes.InvalidArgument, "after hello a session carries reports and answers")
		}
		revision, err := r.take(ctx, p, mine, report)
		if err != nil {
			return storeStatus(err)
		}
		if !report.GetDraining() || told {
			continue
		}
		told = true
		waiting.Go(func() {
			if r.cfg.Delivered != nil {
				if err := r.cfg.Delivered(ctx, revision); err != nil {
					return
				}
			}
			if err := st.send(&dataplanev1.SessionResponse{Drained: true, Zone: r.cfg.Zone}); err != nil {
				r.log.Debug("a launcher was not told that it is drained", zap.Stringer("proxy", p.key),
					zap.Error(err))
			}
		})
	}
}

// take writes a report, and returns the revision at which it is in the store.
func (r *Registry) take(ctx context.Context, p *proxy, mine *session,
	report *dataplanev1.Report) (uint64, error) {
	p.write.Lock()
	defer p.write.Unlock()
	r.mu.Lock()
	if p.session != mine {
		r.mu.Unlock()
		return 0, nil
	}
	p.notReady = slices.Clone(report.GetNotReady())
	p.draining = report.GetDraining()
	joined := p.joined
	r.mu.Unlock()
	if !joined {
		// The stream's own registration will carry it.
		return 0, nil
	}
	return r.writeInsight(ctx, p, nil)
}

// endSession notes that a launcher is gone; clean says that it closed the session itself.
func (r *Registry) endSession(p *proxy, mine *session, clean bool) {
	r.mu.Lock()
	if p.session == mine {
		p.session = nil
		if p.draining {
			p.goodbye = time.Now()
			if !clean {
				// Cut off while it drained: it may come back to say that it still does.
				p.goodbye = p.goodbye.Add(uncleanGoodbye)
			}
		}
		if p.member == nil && !p.joined {
			delete(r.proxies, p.key)
		}
	}
	r.mu.Unlock()
	r.notify()
}
