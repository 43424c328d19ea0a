package api

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// tunnelMethod is a unary method as the tunnel between control planes calls it.
type tunnelMethod func(ctx context.Context, req []byte) ([]byte, error)

// serveGRPC makes the gRPC server, and the methods of the tunnel: all unary ones but those that
// issue tokens, which global does itself.
func (s *Service) serveGRPC() {
	s.grpc = grpc.NewServer(grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxMessage))
	s.methods = map[string]tunnelMethod{}
	serve := func(desc *grpc.ServiceDesc, impl any, tunnelled bool) {
		s.grpc.RegisterService(desc, impl)
		for _, m := range desc.Methods {
			if tunnelled {
				s.methods["/"+desc.ServiceName+"/"+m.MethodName] = s.tunnelMethod(m, impl)
			}
		}
	}
	core := &resourceService{core: s}
	serve(&adminv1.ResourceService_ServiceDesc, core, true)
	serve(&adminv1.StatusService_ServiceDesc, core, true)
	serve(&adminv1.TokenService_ServiceDesc, core, false)
	serve(&adminv1.InspectService_ServiceDesc, s.inspector, true)
	serve(&adminv1.DiffService_ServiceDesc, s.differ, true)
	serve(&adminv1.DebugService_ServiceDesc, s.proxies, true)
	serve(&adminv1.AuditService_ServiceDesc, s.auditor, false)
	reflection.Register(s.grpc)
}

func (s *Service) tunnelMethod(m grpc.MethodDesc, impl any) tunnelMethod {
	return func(ctx context.Context, body []byte) ([]byte, error) {
		decode := func(req any) error {
			if err := proto.Unmarshal(body, req.(proto.Message)); err != nil {
				return problem.New(http.StatusBadRequest, problem.TitleTunnel,
					"the request cannot be read: %v", err).GRPC()
			}
			return nil
		}
		resp, err := m.Handler(impl, ctx, decode, s.unary)
		if err != nil {
			return nil, err
		}
		return proto.Marshal(resp.(proto.Message))
	}
}

// Call runs one unary method of meridian.admin.v1 as the control plane itself: the zone's end of
// the admin tunnel. Errors are gRPC status errors.
func (s *Service) Call(ctx context.Context, method string, req []byte) ([]byte, error) {
	f, ok := s.methods[method]
	if !ok {
		return nil, problem.New(http.StatusNotImplemented, problem.TitleTunnel,
			"this control plane (%s) does not know method %s", s.cfg.Version, method).GRPC()
	}
	return f(authn.With(ctx, authn.Identity{Caller: authn.ControlPlane()}), req)
}

// unary is the edge of every unary call.
func (s *Service) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo,
	handle grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := func() (resp any, err error) {
		defer s.edge.Recover(&err, info.FullMethod)
		if err := s.gate(ctx, info.FullMethod, req); err != nil {
			return nil, err
		}
		return handle(ctx, req)
	}()
	verb := "grpc"
	if info.FullMethod == adminv1.StatusService_WaitRevision_FullMethodName {
		verb = ""
	}
	if err != nil {
		if problem.HasStatus(err) {
			return nil, err
		}
		p := s.edge.Problem(err, titleOf(info.FullMethod))
		s.Refused(ctx, info.FullMethod, p)
		s.edge.Observe(verb, p.Status, start)
		return nil, p.GRPC()
	}
	s.edge.Observe(verb, http.StatusOK, start)
	return resp, nil
}

// stream is the edge of watches and of reflection.
func (s *Service) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo,
	handle grpc.StreamHandler) error {
	err := func() (err error) {
		defer s.edge.Recover(&err, info.FullMethod)
		if err := s.gate(ss.Context(), info.FullMethod, nil); err != nil {
			return err
		}
		return handle(srv, ss)
	}()
	if err != nil && !problem.HasStatus(err) && ss.Context().Err() == nil {
		p := s.edge.Problem(err, titleOf(info.FullMethod))
		s.Refused(ss.Context(), info.FullMethod, p)
		return p.GRPC()
	}
	return err
}

// gate keeps a call from its handler that is in no row of the table of rights, or whose caller may
// not do such a thing to any resource; the handler decides about the resource itself. A denied write
// is a row of the audit under its key.
func (s *Service) gate(ctx context.Context, method string, req any) error {
	_, err := authz.Authorize(ctx, method, nil)
	if err == nil {
		return nil
	}
	verb, known := authz.VerbOf(method)
	if !known || verb == authz.Read {
		return err
	}
	var key mesh.Key
	switch req := req.(type) {
	case interface{ GetKey() *meshv1.Key }:
		key = mesh.KeyFromProto(req.GetKey())
	case interface{ GetResource() *meshv1.Resource }:
		key = mesh.KeyFromProto(req.GetResource().GetKey())
	}
	e := about(ctx, actionOf(method, verb), key)
	e.What = method
	s.audit.refuse(ctx, e, err)
	return err
}

// actionOf is a call as rows of the audit name it.
func actionOf(method string, verb authz.Verb) string {
	switch {
	case method == adminv1.ResourceService_PutResource_FullMethodName:
		return actionPut
	case verb == authz.Delete:
		return actionDelete
	case verb == authz.Issue:
		return actionIssue
	}
	return actionCall
}

// titleOf is the title of what fails in a method.
func titleOf(method string) string {
	switch method {
	case adminv1.ResourceService_GetResource_FullMethodName:
		return problem.TitleGet
	case adminv1.ResourceService_ListResources_FullMethodName,
		adminv1.ResourceService_WatchResources_FullMethodName:
		return problem.TitleList
	case adminv1.ResourceService_PutResource_FullMethodName:
		return problem.TitlePut
	case adminv1.ResourceService_DeleteResource_FullMethodName:
		return problem.TitleDelete
	case adminv1.TokenService_IssueDataplaneToken_FullMethodName,
		adminv1.TokenService_IssueUserToken_FullMethodName,
		adminv1.TokenService_IssueZoneToken_FullMethodName:
		return problem.TitleToken
	}
	return problem.TitleAnswer
}

// resourceService is the gRPC form of resources, status and tokens. Its methods return problems;
// the interceptors make status errors of them.
type resourceService struct {
	adminv1.UnimplementedResourceServiceServer
	adminv1.UnimplementedStatusServiceServer
	adminv1.UnimplementedTokenServiceServer
	core *Service
}

func (s *resourceService) GetResource(ctx context.Context,
	req *adminv1.GetResourceRequest) (*adminv1.GetResourceResponse, error) {
	r, err := s.core.Get(ctx, mesh.KeyFromProto(req.GetKey()), req.GetExact(), req.GetAtLeast())
	if err != nil {
		return nil, err
	}
	p, err := r.Proto()
	return &adminv1.GetResourceResponse{Resource: p}, err
}

func (s *resourceService) ListResources(ctx context.Context,
	req *adminv1.ListResourcesRequest) (*adminv1.ListResourcesResponse, error) {
	info, ok := mesh.Lookup(mesh.Kind(req.GetKind()))
	if !ok {
		return nil, problem.UnknownKind(mesh.Kind(req.GetKind()))
	}
	size := int(req.GetSize())
	if size == 0 {
		size = MaxPage
	}
	if size > MaxPage {
		return nil, problem.Invalid(problem.TitleList,
			mesh.Violation{Field: "size", Reason: "must be at most 1000"})
	}
	var after *mesh.Key
	if req.GetAfter() != nil {
		k := mesh.KeyFromProto(req.GetAfter())
		k.Kind, after = info.Kind, &k
	}
	got, err := s.core.List(ctx, Selection{
		After:   after,
		Kind:    info,
		Mesh:    req.GetMesh(),
		Zone:    req.Zone,
		Labels:  req.GetLabels(),
		Name:    req.GetName(),
		Size:    size,
		Offset:  int(req.GetOffset()),
		AtLeast: req.GetAtLeast(),
	})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ListResourcesResponse{
		Total:    uint32(got.Total),
		Revision: got.Revision,
		Warnings: got.Warnings,
	}
	if got.Next != nil {
		resp.Next = got.Next.Proto()
	}
	resp.Resources, err = protos(got.Resources)
	return resp, err
}

func protos(rs []*mesh.Resource) ([]*meshv1.Resource, error) {
	out := make([]*meshv1.Resource, len(rs))
	for i, r := range rs {
		var err error
		if out[i], err = r.Proto(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *resourceService) PutResource(ctx context.Context,
	req *adminv1.PutResourceRequest) (*adminv1.PutResourceResponse, error) {
	r, err := mesh.FromProto(req.GetResource())
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, problem.TitlePut,
			"the resource cannot be read: %v", err)
	}
	got, err := s.core.Put(ctx, PutRequest{
		Request: admission.Request{Resource: r, IfRevision: req.IfRevision},
		DryRun:  req.GetDryRun(),
		Force:   req.GetForce(),
	})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.PutResourceResponse{
		Revision: got.Revision,
		Created:  got.Created,
		Changed:  got.Changed,
		Warnings: got.Warnings,
	}
	resp.Resource, err = got.Resource.Proto()
	return resp, err
}

func (s *resourceService) DeleteResource(ctx context.Context,
	req *adminv1.DeleteResourceRequest) (*adminv1.DeleteResourceResponse, error) {
	rev, err := s.core.Delete(ctx, DeleteRequest{
		Deletion: admission.Deletion{
			Key:        mesh.KeyFromProto(req.GetKey()),
			IfRevision: req.IfRevision,
		},
		DryRun: req.GetDryRun(),
		Force:  req.GetForce(),
	})
	return &adminv1.DeleteResourceResponse{Revision: rev}, err
}

func (s *resourceService) WatchResources(req *adminv1.WatchResourcesRequest,
	stream grpc.ServerStreamingServer[adminv1.WatchResourcesResponse]) error {
	kinds := make([]mesh.Kind, len(req.GetKinds()))
	for i, k := range req.GetKinds() {
		kinds[i] = mesh.Kind(k)
	}
	matches := func(r *mesh.Resource) bool { return req.GetMesh() == "" || r.Key.Mesh == req.GetMesh() }
	return s.core.Watch(stream.Context(), kinds, matches, func(e Event) error {
		resp := &adminv1.WatchResourcesResponse{Revision: e.Revision, Bookmark: e.Bookmark}
		var err error
		if resp.Upserts, err = protos(e.Upserts); err != nil {
			return err
		}
		for _, k := range e.Deletes {
			resp.Deletes = append(resp.Deletes, k.Proto())
		}
		return stream.Send(resp)
	})
}

func (s *resourceService) GetStatus(ctx context.Context,
	_ *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	return s.core.Status(ctx)
}

// defaultWait is how long WaitRevision waits if the caller does not say.
const defaultWait = 30 * time.Second

func (s *resourceService) WaitRevision(ctx context.Context,
	req *adminv1.WaitRevisionRequest) (*adminv1.WaitRevisionResponse, error) {
	timeout := defaultWait
	if req.GetTimeout() != nil {
		timeout = req.GetTimeout().AsDuration()
	}
	return s.core.Wait(ctx, req.GetRevision(), timeout)
}

func (s *resourceService) IssueDataplaneToken(ctx context.Context,
	req *adminv1.IssueDataplaneTokenRequest) (*adminv1.IssueDataplaneTokenResponse, error) {
	c := tokens.DataplaneClaims{
		Mesh:     req.GetMesh(),
		Name:     req.GetName(),
		Type:     codec.EnumWord(req.GetType()),
		Workload: req.GetWorkload(),
	}
	for k, v := range req.GetTags() {
		if c.Tags == nil {
			c.Tags = map[string][]string{}
		}
		c.Tags[k] = v.GetValues()
	}
	token, err := s.core.IssueDataplane(ctx, c, validity(req.GetValidFor()))
	return &adminv1.IssueDataplaneTokenResponse{Token: token}, err
}

func (s *resourceService) IssueZoneToken(ctx context.Context,
	req *adminv1.IssueZoneTokenRequest) (*adminv1.IssueZoneTokenResponse, error) {
	c := tokens.ZoneClaims{Zone: req.GetZone(), Scope: req.GetScope()}
	token, err := s.core.IssueZone(ctx, c, validity(req.GetValidFor()))
	return &adminv1.IssueZoneTokenResponse{Token: token}, err
}

func (s *resourceService) IssueUserToken(ctx context.Context,
	req *adminv1.IssueUserTokenRequest) (*adminv1.IssueUserTokenResponse, error) {
	c := tokens.UserClaims{Name: req.GetName(), Groups: req.GetGroups()}
	token, err := s.core.IssueUser(ctx, c, validity(req.GetValidFor()))
	return &adminv1.IssueUserTokenResponse{Token: token}, err
}

func validity(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	v := d.AsDuration()
	return &v
}
