// Package client is the typed Go client of a control plane's management API, meridian.admin.v1 over
// gRPC, on the same port as REST. The client verbs of the meridian program use it; other tooling
// may.
//
// # Model
//
// A [Client] is one connection, dialled at the first call and again after a break. It speaks
// cleartext HTTP/2 to an http:// URL and TLS to https://. A TLS server is accepted if its chain
// ends in one of the SHA-256 pins that the token carries, or in a certificate of CAFile; a token is
// all that a caller needs.
//
// # Failure
//
// Every error of a call is an [*Error] with the class, a title, the text for people and, for bad
// input, every violation. A control plane that cannot be reached is code Unavailable with the
// address in the text. Calls are not retried: a write may have happened.
//
// # Concurrency
//
// A Client is safe for concurrent use. Close ends its connection and is idempotent.
//
// No example: every call needs a running control plane.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// Options say which control plane to call, and as which user.
type Options struct {
	// URL such as http://localhost:5681 or https://cp.example:5682; a missing port is 5681 or 5682.
	URL string
	// Token of a user; empty if the connection itself says who calls.
	Token string
	// DataDir is the data directory of a control plane on this machine, whose socket is called instead of
	// the URL's address; empty: none.
	DataDir string
	// CAFile holds PEM certificates to trust instead of the token's pins; "system" means the system's roots.
	CAFile string
	// SkipVerify accepts any server; for trying out.
	SkipVerify bool
}

// Client of one control plane; see the package comment.
type Client struct {
	conn       *grpc.ClientConn
	connection *connection
	resources  adminv1.ResourceServiceClient
	status     adminv1.StatusServiceClient
	tokens     adminv1.TokenServiceClient
	inspect    adminv1.InspectServiceClient
	diff       adminv1.DiffServiceClient
	debug      adminv1.DebugServiceClient
	audit      adminv1.AuditServiceClient
}

// maxMessage bounds an answer, bytes: a page of 1000 large resources.
const maxMessage = 256 << 20

// New makes a client; it does not connect yet. It fails if the URL or the certificate file make no sense.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		u = &url.URL{} // such as HOST:PORT alone
	}
	if u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("control plane URL %q: must be http://HOST:PORT or https://HOST:PORT", o.URL)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("control plane URL %q: must have no path and no query after the port", o.URL)
	}
	port := u.Port()
	creds := insecure.NewCredentials()
	if u.Scheme == "https" {
		if port == "" {
			port = "5682"
		}
		conf, err := clientTLS(o)
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(conf)
	} else if port == "" {
		port = "5681"
	}
	address := net.JoinHostPort(u.Hostname(), port)
	to := &connection{address: address, dataDir: o.DataDir, cleartext: u.Scheme == "http"}
	opts := append(to.options(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithUserAgent("meridian-adminclient"))
	if o.Token != "" {
		opts = append(opts, grpc.WithUnaryInterceptor(unaryBearer(o.Token)),
			grpc.WithStreamInterceptor(streamBearer(o.Token)))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, opts...)
	if err != nil {
		return nil, fmt.Errorf("control plane URL %q: %w", o.URL, err)
	}
	return &Client{
		conn:       conn,
		connection: to,
		resources:  adminv1.NewResourceServiceClient(conn),
		status:     adminv1.NewStatusServiceClient(conn),
		tokens:     adminv1.NewTokenServiceClient(conn),
		inspect:    adminv1.NewInspectServiceClient(conn),
		diff:       adminv1.NewDiffServiceClient(conn),
		debug:      adminv1.NewDebugServiceClient(conn),
		audit:      adminv1.NewAuditServiceClient(conn),
	}, nil
}

func clientTLS(o Options) (*tls.Config, error) {
	co := servercert.ClientOptions{CAFile: o.CAFile, SkipVerify: o.SkipVerify}
	if o.CAFile == "" && o.Token != "" {
		pins, err := servercert.TokenPins(o.Token)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		co.Pins = pins
	}
	return servercert.ClientTLS(co)
}

func unaryBearer(token string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return call(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), method, req,
			reply, cc, opts...)
	}
}

func streamBearer(token string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return open(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), desc, cc, method,
			opts...)
	}
}

// Close ends the connection.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil &&
		status.Code(err) != codes.Canceled { // Canceled: it was closed before
		return err
	}
	return nil
}

// PutOptions of a write.
type PutOptions struct {
	// IfRevision is the resource's revision that must still stand (0: it must not exist); nil
	// writes over any.
	IfRevision *uint64
	// DryRun checks all and writes nothing.
	DryRun bool
	// Force writes what leaves a route or a destination without an instance.
	Force bool
}

// PutResult of a write.
type PutResult struct {
	// Revision of the store after the write.
	Revision uint64
	// Created says that there was none before; Changed that something is different now.
	Created, Changed bool
	// Warnings about the document, for people.
	Warnings []string
	// Resource as it is stored (or would be).
	Resource *mesh.Resource
}

// Put creates or replaces r. An empty Key.Zone is filled by the control plane.
func (c *Client) Put(ctx context.Context, r *mesh.Resource, o PutOptions) (PutResult, error) {
	p, err := r.Proto()
	if err != nil {
		return PutResult{}, err
	}
	resp, err := c.resources.PutResource(ctx, &adminv1.PutResourceRequest{
		Resource:   p,
		IfRevision: o.IfRevision,
		DryRun:     o.DryRun,
		Force:      o.Force,
	})
	if err != nil {
		return PutResult{}, c.fail(err)
	}
	out := PutResult{
		Revision: resp.GetRevision(),
		Created:  resp.GetCreated(),
		Changed:  resp.GetChanged(),
		Warnings: resp.GetWarnings(),
	}
	if resp.GetResource() != nil {
		if out.Resource, err = mesh.FromProto(resp.GetResource()); err != nil {
			return PutResult{}, err
		}
	}
	return out, nil
}

// Get reads one resource. An empty Key.Zone means the only one of that name: if zones have several,
// the error is code FailedPrecondition and names the zones; see GetExact.
func (c *Client) Get(ctx context.Context, key mesh.Key) (*mesh.Resource, error) {
	resp, err := c.resources.GetResource(ctx, &adminv1.GetResourceRequest{Key: key.Proto()})
	if err != nil {
		return nil, c.fail(err)
	}
	return mesh.FromProto(resp.GetResource())
}

// GetExact reads the resource with exactly this key: an empty Key.Zone is global's own.
func (c *Client) GetExact(ctx context.Context, key mesh.Key) (*mesh.Resource, error) {
	resp, err := c.resources.GetResource(ctx, &adminv1.GetResourceRequest{Key: key.Proto(), Exact: true})
	if err != nil {
		return nil, c.fail(err)
	}
	return mesh.FromProto(resp.GetResource())
}

// ListOptions select resources.
type ListOptions struct {
	Kind mesh.Kind
	// Mesh is empty for all meshes.
	Mesh string
	// Labels must all be equal.
	Labels map[string]string
	// Name is a substring of the name.
	Name string
	// Zone is the origin zone selected (empty text: global); nil for all.
	Zone *string
	// Size of a page, at most 1000; 0 reads all pages.
	Size uint32
	// Offset of the page.
	Offset uint32
	// AtLeast asks for a state of at least this store revision; 0 for whatever the control plane has.
	AtLeast uint64
}

// Page of a list.
type Page struct {
	Resources []*mesh.Resource
	// Total counts what the selection matches, on all pages.
	Total int
	// Revision of the store that the answer shows.
	Revision uint64
	// Warnings say what is missing, such as zones that could not be asked.
	Warnings []string
}

// List reads resources, sorted by mesh, name and zone.
func (c *Client) List(ctx context.Context, o ListOptions) (Page, error) {
	req := &adminv1.ListResourcesRequest{
		Kind:    string(o.Kind),
		Mesh:    o.Mesh,
		Labels:  o.Labels,
		Name:    o.Name,
		Zone:    o.Zone,
		Size:    o.Size,
		Offset:  o.Offset,
		AtLeast: o.AtLeast,
	}
	if o.Size == 0 {
		req.Size = 1000
	}
	var page Page
	for {
		resp, err := c.resources.ListResources(ctx, req)
		if err != nil {
			return Page{}, c.fail(err)
		}
		for _, p := range resp.GetResources() {
			r, err := mesh.FromProto(p)
			if err != nil {
				return Page{}, err
			}
			page.Resources = append(page.Resources, r)
		}
		page.Total, page.Revision, page.Warnings = int(resp.GetTotal()), resp.GetRevision(),
			resp.GetWarnings()
		switch {
		case o.Size != 0:
			return page, nil
		case resp.GetNext() != nil:
			req.Offset, req.After = 0, resp.GetNext()
			continue
		case req.GetAfter() != nil:
			return page, nil
		}
		req.Offset += uint32(len(resp.GetResources()))
		if len(resp.GetResources()) == 0 || req.Offset >= resp.GetTotal() {
			return page, nil
		}
	}
}

// DeleteOptions of a delete.
type DeleteOptions struct {
	// IfRevision is the resource's revision that must still stand; nil deletes any.
	IfRevision *uint64
	// DryRun checks all and deletes nothing.
	DryRun bool
	// Force deletes what a route or a destination cannot do without.
	Force bool
}

// Delete removes a resource and returns the store's revision after it.
func (c *Client) Delete(ctx context.Context, key mesh.Key, o DeleteOptions) (uint64, error) {
	resp, err := c.resources.DeleteResource(ctx, &adminv1.DeleteResourceRequest{
		Key:        key.Proto(),
		IfRevision: o.IfRevision,
		DryRun:     o.DryRun,
		Force:      o.Force,
	})
	if err != nil {
		return 0, c.fail(err)
	}
	return resp.GetRevision(), nil
}

// Event of a watch.
type Event struct {
	Revision uint64
	Upserts  []*mesh.Resource
	Deletes  []mesh.Key
	// Bookmark is true once the state at the start is complete.
	Bookmark bool
}

// Watch calls f with the state, a bookmark, and each change, until ctx ends or f fails. It returns
// nil only when ctx ended.
func (c *Client) Watch(ctx context.Context, kinds []mesh.Kind, meshName string, f func(Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := &adminv1.WatchResourcesRequest{Mesh: meshName}
	for _, k := range kinds {
		req.Kinds = append(req.Kinds, string(k))
	}
	stream, err := c.resources.WatchResources(ctx, req)
	if err != nil {
		return c.fail(err)
	}
	for {
		resp, err := stream.Recv()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.fail(err)
		}
		e := Event{Revision: resp.GetRevision(), Bookmark: resp.GetBookmark()}
		for _, p := range resp.GetUpserts() {
			r, err := mesh.FromProto(p)
			if err != nil {
				return err
			}
			e.Upserts = append(e.Upserts, r)
		}
		for _, k := range resp.GetDeletes() {
			e.Deletes = append(e.Deletes, mesh.KeyFromProto(k))
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

// Status of the control plane and those that it is connected with.
func (c *Client) Status(ctx context.Context) (*adminv1.GetStatusResponse, error) {
	resp, err := c.status.GetStatus(ctx, &adminv1.GetStatusRequest{})
	return resp, c.fail(err)
}

// Wait returns when every affected online proxy has acknowledged everything up to revision, or at the
// timeout, with Complete false and the reasons; that is not an error.
func (c *Client) Wait(ctx context.Context, revision uint64,
	timeout time.Duration) (*adminv1.WaitRevisionResponse, error) {
	resp, err := c.status.WaitRevision(ctx, &adminv1.WaitRevisionRequest{
		Revision: revision,
		Timeout:  durationpb.New(timeout),
	})
	return resp, c.fail(err)
}

// DataplaneToken says what a dataplane token is bound to; empty fields bind nothing.
type DataplaneToken struct {
	Mesh, Name string
	Tags       map[string][]string
	// Type is "dataplane", "ingress", "egress" or empty.
	Type     string
	Workload string
	// ValidFor is nil for the default of 10 years.
	ValidFor *time.Duration
}

// IssueDataplaneToken makes a token for a proxy.
func (c *Client) IssueDataplaneToken(ctx context.Context, t DataplaneToken) (string, error) {
	proxyType, ok := codec.ParseEnumWord[adminv1.TokenProxyType](t.Type)
	if !ok {
		return "", fmt.Errorf("type %q: must be one of %s", t.Type,
			strings.Join(codec.EnumWords(proxyType.Descriptor()), ", "))
	}
	req := &adminv1.IssueDataplaneTokenRequest{
		Mesh:     t.Mesh,
		Name:     t.Name,
		Type:     proxyType,
		Workload: t.Workload,
		ValidFor: duration(t.ValidFor),
	}
	for k, v := range t.Tags {
		if req.Tags == nil {
			req.Tags = map[string]*adminv1.Values{}
		}
		req.Tags[k] = &adminv1.Values{Values: v}
	}
	resp, err := c.tokens.IssueDataplaneToken(ctx, req)
	return resp.GetToken(), c.fail(err)
}

// IssueZoneToken makes a token for a zone control plane (scope "cp") or its zone proxies
// ("ingress", "egress"); validFor nil is 10 years.
func (c *Client) IssueZoneToken(ctx context.Context, zone string, scope []string,
	validFor *time.Duration) (string, error) {
	resp, err := c.tokens.IssueZoneToken(ctx, &adminv1.IssueZoneTokenRequest{
		Zone:     zone,
		Scope:    scope,
		ValidFor: duration(validFor),
	})
	return resp.GetToken(), c.fail(err)
}

// IssueUserToken makes a token for a person or a program.
func (c *Client) IssueUserToken(ctx context.Context, name string, groups []string,
	validFor time.Duration) (string, error) {
	resp, err := c.tokens.IssueUserToken(ctx, &adminv1.IssueUserTokenRequest{
		Name:     name,
		Groups:   groups,
		ValidFor: durationpb.New(validFor),
	})
	return resp.GetToken(), c.fail(err)
}

func duration(d *time.Duration) *durationpb.Duration {
	if d == nil {
		return nil
	}
	return durationpb.New(*d)
}
