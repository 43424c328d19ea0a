package client

import (
	"context"

	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// DebugProxy compares what a proxy has with what it should have. An empty Key.Zone means the only
// one of that name.
func (c *Client) DebugProxy(ctx context.Context, key mesh.Key) (*adminv1.DebugProxyResponse, error) {
	resp, err := c.debug.DebugProxy(ctx, &adminv1.DebugProxyRequest{Key: key.Proto()})
	if err != nil {
		return nil, c.fail(err)
	}
	return resp, nil
}

// DebugChange says what became of a revision of the store of the control plane asked: at global in
// every zone. With a zone it is a revision of that zone's store; with ofGlobal, at a zone, one of
// global's.
func (c *Client) DebugChange(ctx context.Context, zone string, revision uint64,
	ofGlobal bool) (*adminv1.DebugChangeResponse, error) {
	resp, err := c.debug.DebugChange(ctx, &adminv1.DebugChangeRequest{
		Revision: revision,
		Zone:     zone,
		OfGlobal: ofGlobal,
	})
	if err != nil {
		return nil, c.fail(err)
	}
	return resp, nil
}

// ProxyAdmin is what the admin interface of a proxy's Envoy says, JSON. Filter is a regular expression
// on the names of statistics.
func (c *Client) ProxyAdmin(ctx context.Context, key mesh.Key, question adminv1.AdminQuestion,
	filter string) ([]byte, error) {
	resp, err := c.debug.ProxyAdmin(ctx, &adminv1.ProxyAdminRequest{
		Key:      key.Proto(),
		Question: question,
		Filter:   filter,
	})
	if err != nil {
		return nil, c.fail(err)
	}
	return resp.GetBody(), nil
}
