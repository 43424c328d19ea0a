package universal

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// Proxy types of node metadata.
const (
	typeDataplane = "dataplane"
	typeIngress   = "ingress"
	typeEgress    = "egress"
)

// member is an admitted stream; it implements delta.Member.
type member struct {
	registry   *Registry
	proxy      *proxy
	revision   uint64
	superseded chan struct{}
	// peer is where the stream comes from, and address that of the document it brought, if it did.
	peer, address string
	ended         bool // superseded is closed; Registry.mu guards it
	// shared streams leave room for others of the kind.
	shared bool
}

// Proxy implements delta.Member.
func (m *member) Proxy() (mesh.Key, uint64) { return m.proxy.key, m.revision }

// end closes superseded; Registry.mu is held.
func (m *member) end() {
	if !m.ended {
		m.ended = true
		close(m.superseded)
	}
}

// Superseded implements delta.Member.
func (m *member) Superseded() <-chan struct{} { return m.superseded }

// Configured implements delta.Member: callers may use the proxy from now on. Run writes it.
func (m *member) Configured() {
	r := m.registry
	r.mu.Lock()
	p := m.proxy
	_, other := p.others[m]
	news := (p.member == m || other) && !p.configured
	if news {
		p.configured, p.confirm = true, true
	}
	r.mu.Unlock()
	if news {
		r.notify()
	}
}

// Leave implements delta.Member.
func (m *member) Leave(cause error) {
	r := m.registry
	r.mu.Lock()
	current := m.proxy.leave(m)
	if current && errors.Is(cause, delta.ErrAged) {
		m.proxy.hold = time.Now().Add(r.cfg.ReturnTime) // this control plane ended it, and it is well
	}
	r.mu.Unlock()
	if current {
		r.log.Debug("a proxy's stream ended", zap.Stringer("proxy", m.proxy.key), zap.Error(cause))
		r.notify()
	}
}

// enter makes m the proxy's stream. It takes over from the others unless all of them are shared.
// Registry.mu is held.
func (p *proxy) enter(m *member) {
	if p.member != nil && p.member.shared && m.shared {
		if p.others == nil {
			p.others = map[*member]struct{}{}
		}
		p.others[p.member] = struct{}{}
	} else {
		if p.member != nil {
			p.member.end()
		}
		for o := range p.others {
			o.end()
		}
		p.others = nil
	}
	p.member = m
}

// leave takes m away and says whether no stream is left because of that. Registry.mu is held.
func (p *proxy) leave(m *member) bool {
	delete(p.others, m)
	if p.member != m {
		return false
	}
	p.member = nil
	for o := range p.others {
		delete(p.others, o)
		p.member = o
		return false
	}
	p.absent = time.Now()
	return true
}

// Join implements delta.Admission. A newer stream of the same proxy replaces the older; those of a
// gRPC client stand side by side.
func (r *Registry) Join(ctx context.Context, j delta.Join) (delta.Member, error) {
	m, err := r.join(ctx, j)
	if err != nil {
		r.joins.WithLabelValues(status.Code(err).String()).Inc()
		r.log.Info("refused a proxy", zap.String("node", j.NodeID), zap.String("peer", j.Peer),
			zap.Error(err))
		return nil, err
	}
	r.joins.WithLabelValues("admitted").Inc()
	r.log.Info("admitted a proxy", zap.Stringer("proxy", m.proxy.key), zap.String("peer", j.Peer),
		zap.Uint64("revision", m.revision))
	return m, nil
}

func (r *Registry) join(ctx context.Context, j delta.Join) (*member, error) {
	who, err := r.check(ctx, claim{
		NodeID:    j.NodeID,
		ProxyType: j.ProxyType,
		Token:     j.Token,
		Resource:  j.Resource,
	})
	if err != nil {
		return nil, err
	}
	if r.cfg.Issue != nil && who.resource.Key.Kind == mesh.KindDataplane {
		r.cfg.Issue(ctx, who.resource)
	}
	r.mu.Lock()
	p := r.entry(who.resource.Key)
	m := &member{
		registry:   r,
		proxy:      p,
		superseded: make(chan struct{}),
		peer:       j.Peer,
		shared:     j.Client.Kind == delta.ClientGRPC,
	}
	if who.given && who.resource.Key.Kind == mesh.KindDataplane {
		m.address = mesh.Spec[*meshv1.Dataplane](who.resource).GetNetworking().GetAddress()
	}
	if p.member != nil && p.member.another(m) {
		err := r.refuseDuplicate(p.key, p.member.peer, m.peer)
		r.mu.Unlock()
		return nil, err
	}
	if !p.joined || p.lost || p.draining {
		// A proxy that starts: it is not to be called before it has its configuration. One that
		// merely reconnects serves.
		p.connected, p.configured, p.confirm = time.Now(), false, false
	}
	p.enter(m)
	p.absent, p.hold, p.leaseEnd, p.goodbye, p.lost = time.Time{}, time.Time{}, time.Time{}, time.Time{},
		false
	if p.session == nil {
		// No launcher speaks for it: what a former one said does not hold any more.
		p.draining, p.notReady = false, nil
	}
	if p.envoyVersion == "" {
		p.envoyVersion = j.UserAgent
	}
	r.mu.Unlock()

	p.write.Lock()
	defer p.write.Unlock()
	registration := who.resource
	if !who.given {
		registration = nil
	}
	m.revision, err = r.writeInsight(ctx, p, registration)
	r.mu.Lock()
	if err == nil {
		p.joined = true
	} else if p.leave(m) {
		if !p.joined && p.session == nil {
			delete(r.proxies, p.key)
		}
	}
	r.mu.Unlock()
	r.notify()
	if err != nil {
		return nil, storeStatus(err)
	}
	return m, nil
}

// storeStatus is the rejection for a write that failed.
func storeStatus(err error) error {
	var invalid *store.InvalidError
	switch {
	case errors.As(err, &invalid):
		return status.Error(codes.InvalidArgument, invalid.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Errorf(codes.Unavailable, "the store of this zone does not answer, try again: %v", err)
}

// claim is what a stream or a session says about itself.
type claim struct {
	NodeID, ProxyType, Token, Resource string
}

// admitted is who it is. given says that it brought its own resource.
type admitted struct {
	resource *mesh.Resource
	given    bool
}

// check is the one way in; errors are gRPC status errors.
func (r *Registry) check(ctx context.Context, c claim) (admitted, error) {
	select {
	case <-r.cfg.Replica.Ready():
	default:
		return admitted{}, status.Error(codes.Unavailable, "this zone is still loading its state, try again")
	}
	var kind mesh.Kind
	switch c.ProxyType {
	case "", typeDataplane:
		kind, c.ProxyType = mesh.KindDataplane, typeDataplane
	case typeIngress:
		kind = mesh.KindZoneIngress
	case typeEgress:
		return admitted{}, status.Error(codes.InvalidArgument, "proxy type egress is not supported yet")
	default:
		return admitted{}, status.Errorf(codes.InvalidArgument,
			"unknown proxy type %q: must be dataplane or ingress", c.ProxyType)
	}
	key, err := r.keyOf(kind, c.NodeID)
	if err != nil {
		return admitted{}, err
	}
	out := admitted{given: c.Resource != ""}
	if out.given {
		if out.resource, err = r.document(key, c.Resource); err != nil {
			return admitted{}, err
		}
	}
	var m *mesh.Resource
	if key.Mesh != "" {
		if m, err = r.mesh(ctx, key.Mesh); err != nil {
			return admitted{}, err
		}
	}
	if !out.given {
		out.resource, err = r.cfg.Store.Get(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return admitted{},
				status.Errorf(codes.NotFound,
					"there is no %s %q in this zone: send it as node metadata dataplane.resource, "+
						"or create it first", kind, key.Name)
		case err != nil:
			return admitted{}, storeStatus(err)
		}
	}
	if err := r.authenticate(out.resource, c); err != nil {
		return admitted{}, err
	}
	if m != nil {
		if err := constrained(mesh.Spec[*meshv1.Mesh](m), out.resource); err != nil {
			return admitted{}, err
		}
	}
	return out, nil
}

// keyOf reads the node id: "<mesh>.<name>" of a dataplane, ".<name>" or "<name>" of a zone proxy.
func (r *Registry) keyOf(kind mesh.Kind, nodeID string) (mesh.Key, error) {
	key := mesh.Key{Kind: kind, Zone: r.cfg.Zone}
	meshName, name, ok := strings.Cut(nodeID, ".")
	if kind == mesh.KindZoneIngress {
		if ok && meshName != "" {
			return key, status.Errorf(codes.InvalidArgument,
				"node id %q: a zone proxy has no mesh, so it must be \".%s\"", nodeID, name)
		}
		if !ok {
			name = nodeID
		}
	} else {
		if !ok || meshName == "" {
			return key, status.Errorf(codes.InvalidArgument,
				"node id %q: must be \"<mesh>.<dataplane name>\"", nodeID)
		}
		key.Mesh = meshName
	}
	if name == "" {
		return key, status.Errorf(codes.InvalidArgument, "node id %q has no name", nodeID)
	}
	key.Name = name
	return key, nil
}

// EndMesh ends the streams of the proxies of a mesh that is gone, and forgets the proxies.
func (r *Registry) EndMesh(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, p := range r.proxies {
		if key.Mesh != name {
			continue
		}
		// As after a goodbye, so that no lease keeps what no client can call.
		p.goodbye = time.Now()
		if p.member != nil {
			p.member.end()
		}
		for m := range p.others {
			m.end()
		}
		r.log.Info("ends a proxy, for its mesh is gone", zap.Stringer("proxy", key))
	}
}

// mesh finds a proxy's mesh.
func (r *Registry) mesh(ctx context.Context, name string) (*mesh.Resource, error) {
	key := mesh.Key{Kind: mesh.KindMesh, Name: name}
	if m, ok := r.cfg.Replica.View().Get(key); ok {
		return m, nil
	}
	m, err := r.cfg.Store.Get(ctx, key)
	switch {
	case err == nil:
		return m, nil
	case !errors.Is(err, store.ErrNotFound):
		return nil, storeStatus(err)
	case !r.synced():
		return nil, status.Errorf(codes.Unavailable,
			"mesh %q is not known yet: this zone has not heard from global, try again", name)
	}
	return nil, status.Errorf(codes.NotFound,
		"there is no mesh %q: create it, or correct the dataplane's mesh", name)
}

func (r *Registry) synced() bool { return r.cfg.Synced == nil || r.cfg.Synced() }

// authenticate checks the token against the resource.
func (r *Registry) authenticate(res *mesh.Resource, c claim) error {
	if c.Token == "" {
		return status.Error(codes.Unauthenticated,
			"no token: send it in the header authorization or as node metadata dataplane.token")
	}
	token := strings.TrimSpace(strings.TrimPrefix(c.Token, "Bearer "))
	var err error
	if res.Key.Kind == mesh.KindZoneIngress {
		var claims tokens.ZoneClaims
		if claims, err = r.cfg.Tokens.VerifyZone(token); err == nil {
			err = claims.Allows(r.cfg.Zone, c.ProxyType)
		}
	} else {
		var claims tokens.DataplaneClaims
		if claims, err = r.cfg.Tokens.VerifyDataplane(token); err == nil {
			err = claims.Allows(res, c.ProxyType)
		}
	}
	if err == nil {
		return nil
	}
	var te *tokens.TokenError
	if !errors.As(err, &te) {
		return status.Errorf(codes.Unavailable, "the token could not be checked, try again: %v", err)
	}
	switch te.Code {
	case tokens.WrongType, tokens.Mismatch:
		return status.Error(codes.PermissionDenied, te.Reason)
	case tokens.UnknownKey:
		if !r.synced() {
			return status.Error(codes.Unavailable,
				"the token's key is not known yet: this zone has not heard from global, try again")
		}
	}
	return status.Error(codes.Unauthenticated, te.Reason)
}

// constrained applies the Mesh's membership constraints: a Dataplane that matches a restriction is
// rejected, whatever the requirements say.
func constrained(m *meshv1.Mesh, dp *mesh.Resource) error {
	rules := m.GetConstraints().GetDataplaneProxy()
	tags := tagsOf(mesh.Spec[*meshv1.Dataplane](dp))
	for _, rule := range rules.GetRestrictions() {
		if matches(rule.GetTags(), tags) {
			return status.Errorf(codes.FailedPrecondition, "mesh %q keeps out dataplanes with the tags %v",
				dp.Key.Mesh, rule.GetTags())
		}
	}
	for _, rule := range rules.GetRequirements() {
		if matches(rule.GetTags(), tags) {
			return nil
		}
	}
	if len(rules.GetRequirements()) > 0 {
		return status.Errorf(codes.FailedPrecondition,
			"mesh %q lets in only dataplanes that meet one of its %d requirements on tags; "+
				"this one has the tags %v", dp.Key.Mesh, len(rules.GetRequirements()), tags)
	}
	return nil
}

func tagsOf(dp *meshv1.Dataplane) map[string][]string {
	out := map[string][]string{}
	for _, in := range dp.GetNetworking().GetInbound() {
		for k, v := range in.GetTags() {
			out[k] = append(out[k], v)
		}
	}
	for k, v := range dp.GetNetworking().GetGateway().GetTags() {
		out[k] = append(out[k], v)
	}
	return out
}

func matches(want map[string]string, have map[string][]string) bool {
	for k, v := range want {
		found := false
		for _, h := range have[k] {
			found = found || v == "*" || h == v
		}
		if !found {
			return false
		}
	}
	return true
}
