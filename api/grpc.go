package api

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// service is the gRPC form of the core. Its methods return problems; the interceptors make status
// errors of them.
type service struct {
	adminv1.UnimplementedResourceServiceServer
	adminv1.UnimplementedStatusServiceServer
	adminv1.UnimplementedTokenServiceServer
	api *API
}

// unary is the edge of every unary call.
func (a *API) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo,
	handle grpc.UnaryHandler) (any, error) {
	return a.edge(ctx, info.FullMethod, func(ctx context.Context) (any, error) { return handle(ctx, req) })
}

func (a *API) edge(ctx context.Context, method string,
	handle func(context.Context) (any, error)) (any, error) {
	start := time.Now()
	resp, err := func() (resp any, err error) {
		defer a.recovered(&err, method)
		return handle(ctx)
	}()
	verb := "grpc"
	if method == adminv1.StatusService_WaitRevision_FullMethodName {
		verb = ""
	}
	if err != nil {
		if hasStatus(err) {
			return nil, err
		}
		p := a.asProblem(err, titleOf(method))
		a.observe(verb, p.Status, start)
		return nil, p.grpc()
	}
	a.observe(verb, http.StatusOK, start)
	return resp, nil
}

// stream is the edge of watches and of reflection.
func (a *API) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo,
	handle grpc.StreamHandler) error {
	err := func() (err error) {
		defer a.recovered(&err, info.FullMethod)
		if _, err := a.authorize(ss.Context(), verbRead, nil); err != nil {
			return err
		}
		return handle(srv, ss)
	}()
	if err != nil && !hasStatus(err) && ss.Context().Err() == nil {
		return a.asProblem(err, titleOf(info.FullMethod)).grpc()
	}
	return err
}

// hasStatus says that err is for the caller as it is.
func hasStatus(err error) bool {
	_, ok := err.(interface{ GRPCStatus() *status.Status })
	return ok
}

func titleOf(method string) string {
	switch method {
	case adminv1.ResourceService_GetResource_FullMethodName:
		return titleGet
	case adminv1.ResourceService_ListResources_FullMethodName,
		adminv1.ResourceService_WatchResources_FullMethodName:
		return titleList
	case adminv1.ResourceService_PutResource_FullMethodName:
		return titlePut
	case adminv1.ResourceService_DeleteResource_FullMethodName:
		return titleDelete
	case adminv1.TokenService_IssueDataplaneToken_FullMethodName,
		adminv1.TokenService_IssueUserToken_FullMethodName,
		adminv1.TokenService_IssueZoneToken_FullMethodName:
		return titleToken
	}
	return "Could not answer"
}

// call makes a tunnel method of a unary one.
func call[Req, Resp proto.Message](a *API, method string, newReq func() Req,
	f func(context.Context, Req) (Resp, error)) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, body []byte) ([]byte, error) {
		resp, err := a.edge(ctx, method, func(ctx context.Context) (any, error) {
			req := newReq()
			if err := proto.Unmarshal(body, req); err != nil {
				return nil, problem(http.StatusBadRequest, titleOf(method), "the request cannot be read: %v",
					err)
			}
			return f(ctx, req)
		})
		if err != nil {
			return nil, err
		}
		return proto.Marshal(resp.(proto.Message))
	}
}

// methods are what the tunnel serves.
func (s *service) methods() map[string]func(context.Context, []byte) ([]byte, error) {
	m := map[string]func(context.Context, []byte) ([]byte, error){}
	add := func(method string, f func(context.Context, []byte) ([]byte, error)) { m[method] = f }
	a := s.api
	add(adminv1.ResourceService_GetResource_FullMethodName,
		call(a, adminv1.ResourceService_GetResource_FullMethodName,
			func() *adminv1.GetResourceRequest { return &adminv1.GetResourceRequest{} }, s.GetResource))
	add(adminv1.ResourceService_ListResources_FullMethodName,
		call(a, adminv1.ResourceService_ListResources_FullMethodName,
			func() *adminv1.ListResourcesRequest { return &adminv1.ListResourcesRequest{} }, s.ListResources))
	add(adminv1.ResourceService_PutResource_FullMethodName,
		call(a, adminv1.ResourceService_PutResource_FullMethodName,
			func() *adminv1.PutResourceRequest { return &adminv1.PutResourceRequest{} }, s.PutResource))
	add(adminv1.ResourceService_DeleteResource_FullMethodName,
		call(a, adminv1.ResourceService_DeleteResource_FullMethodName,
			func() *adminv1.DeleteResourceRequest { return &adminv1.DeleteResourceRequest{} },
			s.DeleteResource))
	add(adminv1.StatusService_GetStatus_FullMethodName,
		call(a, adminv1.StatusService_GetStatus_FullMethodName,
			func() *adminv1.GetStatusRequest { return &adminv1.GetStatusRequest{} }, s.GetStatus))
	add(adminv1.StatusService_WaitRevision_FullMethodName,
		call(a, adminv1.StatusService_WaitRevision_FullMethodName,
			func() *adminv1.WaitRevisionRequest { return &adminv1.WaitRevisionRequest{} }, s.WaitRevision))
	return m
}

func (s *service) GetResource(ctx context.Context,
	req *adminv1.GetResourceRequest) (*adminv1.GetResourceResponse, error) {
	r, err := s.api.get(ctx, mesh.KeyFromProto(req.GetKey()), req.GetExact(), req.GetAtLeast())
	if err != nil {
		return nil, err
	}
	p, err := r.Proto()
	return &adminv1.GetResourceResponse{Resource: p}, err
}

func (s *service) ListResources(ctx context.Context,
	req *adminv1.ListResourcesRequest) (*adminv1.ListResourcesResponse, error) {
	info, ok := mesh.Lookup(mesh.Kind(req.GetKind()))
	if !ok {
		return nil, unknownKind(req.GetKind())
	}
	size := int(req.GetSize())
	if size == 0 {
		size = maxPage
	}
	if size > maxPage {
		return nil, invalid(titleList, []mesh.Violation{{Field: "size", Reason: "must be at most 1000"}})
	}
	got, err := s.api.list(ctx, selection{
		kind:    info,
		mesh:    req.GetMesh(),
		zone:    req.Zone,
		labels:  req.GetLabels(),
		name:    req.GetName(),
		size:    size,
		offset:  int(req.GetOffset()),
		atLeast: req.GetAtLeast(),
	})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ListResourcesResponse{
		Total:    uint32(got.total),
		Revision: got.revision,
		Warnings: got.warnings,
	}
	resp.Resources, err = protos(got.resources)
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

func (s *service) PutResource(ctx context.Context,
	req *adminv1.PutResourceRequest) (*adminv1.PutResourceResponse, error) {
	r, err := mesh.FromProto(req.GetResource())
	if err != nil {
		// Rights come first, also for what cannot be read.
		if _, denied := s.api.authorize(ctx, verbWrite, nil); denied != nil {
			return nil, denied
		}
		return nil, problem(http.StatusBadRequest, titlePut, "the resource cannot be read: %v", err)
	}
	got, err := s.api.put(ctx, put{resource: r, ifRevision: req.IfRevision, dryRun: req.GetDryRun()})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.PutResourceResponse{
		Revision: got.revision,
		Created:  got.created,
		Changed:  got.changed,
		Warnings: got.warnings,
	}
	resp.Resource, err = got.resource.Proto()
	return resp, err
}

func (s *service) DeleteResource(ctx context.Context,
	req *adminv1.DeleteResourceRequest) (*adminv1.DeleteResourceResponse, error) {
	rev, err := s.api.remove(ctx, remove{
		key:        mesh.KeyFromProto(req.GetKey()),
		ifRevision: req.IfRevision,
		dryRun:     req.GetDryRun(),
	})
	return &adminv1.DeleteResourceResponse{Revision: rev}, err
}

func (s *service) WatchResources(req *adminv1.WatchResourcesRequest,
	stream grpc.ServerStreamingServer[adminv1.WatchResourcesResponse]) error {
	kinds := make([]mesh.Kind, len(req.GetKinds()))
	for i, k := range req.GetKinds() {
		kinds[i] = mesh.Kind(k)
	}
	matches := func(r *mesh.Resource) bool { return req.GetMesh() == "" || r.Key.Mesh == req.GetMesh() }
	return s.api.watch(stream.Context(), kinds, matches, func(e event) error {
		resp := &adminv1.WatchResourcesResponse{Revision: e.revision, Bookmark: e.bookmark}
		var err error
		if resp.Upserts, err = protos(e.upserts); err != nil {
			return err
		}
		for _, k := range e.deletes {
			resp.Deletes = append(resp.Deletes, k.Proto())
		}
		return stream.Send(resp)
	})
}

func (s *service) GetStatus(ctx context.Context,
	_ *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	if _, err := s.api.authorize(ctx, verbRead, nil); err != nil {
		return nil, err
	}
	if s.api.conf.Status != nil {
		return s.api.conf.Status(ctx), nil
	}
	return &adminv1.GetStatusResponse{
		Role:     s.api.conf.Role,
		Zone:     s.api.conf.Zone,
		Instance: s.api.conf.Instance,
		Version:  s.api.conf.Version,
		Revision: s.api.conf.Replica.View().Revision(),
	}, nil
}

func (s *service) WaitRevision(ctx context.Context,
	req *adminv1.WaitRevisionRequest) (*adminv1.WaitRevisionResponse, error) {
	if _, err := s.api.authorize(ctx, verbRead, nil); err != nil {
		return nil, err
	}
	timeout := 30 * time.Second
	if req.GetTimeout() != nil {
		timeout = req.GetTimeout().AsDuration()
	}
	return s.api.waitFor(ctx, req.GetRevision(), timeout)
}

// waitFor waits for delivery, at most timeout; a delivery that is not complete by then is an
// answer, not an error.
func (a *API) waitFor(ctx context.Context, revision uint64,
	timeout time.Duration) (*adminv1.WaitRevisionResponse, error) {
	if a.conf.Wait == nil {
		return nil, problem(http.StatusNotImplemented, "Could not wait",
			"this control plane does not know who has answered")
	}
	start := time.Now()
	wait, cancel := context.WithTimeout(ctx, min(max(timeout, 0), maxWait))
	defer cancel()
	resp := a.conf.Wait(wait, revision)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if resp == nil {
		resp = &adminv1.WaitRevisionResponse{}
	}
	if resp.Took == nil {
		resp.Took = durationpb.New(time.Since(start))
	}
	return resp, nil
}

func (s *service) IssueDataplaneToken(ctx context.Context,
	req *adminv1.IssueDataplaneTokenRequest) (*adminv1.IssueDataplaneTokenResponse, error) {
	c := tokens.DataplaneClaims{
		Mesh:     req.GetMesh(),
		Name:     req.GetName(),
		Type:     req.GetType(),
		Workload: req.GetWorkload(),
	}
	for k, v := range req.GetTags() {
		if c.Tags == nil {
			c.Tags = map[string][]string{}
		}
		c.Tags[k] = v.GetValues()
	}
	token, err := s.api.issueDataplane(ctx, c, validity(req.GetValidFor()))
	return &adminv1.IssueDataplaneTokenResponse{Token: token}, err
}

func (s *service) IssueZoneToken(ctx context.Context,
	req *adminv1.IssueZoneTokenRequest) (*adminv1.IssueZoneTokenResponse, error) {
	token, err := s.api.issueZone(ctx, tokens.ZoneClaims{
		Zone:  req.GetZone(),
		Scope: req.GetScope(),
	}, validity(req.GetValidFor()))
	return &adminv1.IssueZoneTokenResponse{Token: token}, err
}

func (s *service) IssueUserToken(ctx context.Context,
	req *adminv1.IssueUserTokenRequest) (*adminv1.IssueUserTokenResponse, error) {
	token, err := s.api.issueUser(ctx, tokens.UserClaims{
		Name:   req.GetName(),
		Groups: req.GetGroups(),
	}, validity(req.GetValidFor()))
	return &adminv1.IssueUserTokenResponse{Token: token}, err
}

func validity(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	v := d.AsDuration()
	return &v
}
