package client

import (
	"context"

	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// InspectDataplane is the effective configuration of a Dataplane. An empty Key.Zone means the only
// one of that name.
func (c *Client) InspectDataplane(ctx context.Context,
	key mesh.Key) (*adminv1.InspectDataplaneResponse, error) {
	resp, err := c.inspect.InspectDataplane(ctx, &adminv1.InspectDataplaneRequest{Key: key.Proto()})
	if err != nil {
		return nil, c.fail(err)
	}
	return resp, nil
}

// InspectPolicy says which Dataplanes a policy selects in every zone, and what it does to the first
// size of each (0: 20).
func (c *Client) InspectPolicy(ctx context.Context, key mesh.Key,
	size uint32) (*adminv1.InspectPolicyResponse, error) {
	resp, err := c.inspect.InspectPolicy(ctx, &adminv1.InspectPolicyRequest{Key: key.Proto(), Size: size})
	if err != nil {
		return nil, c.fail(err)
	}
	return resp, nil
}

// Explain follows a request from a caller to a destination.
func (c *Client) Explain(ctx context.Context, req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	resp, err := c.inspect.Explain(ctx, req)
	if err != nil {
		return nil, c.fail(err)
	}
	return resp, nil
}

// DiffOptions of a question what a change would do.
type DiffOptions struct {
	// Size is how many proxies to name in each zone; 0 is 20.
	Size uint32
	// Verbose shows what changes within resources.
	Verbose bool
	// Guard asks only whether something speaks against the write.
	Guard bool
}

// Diff says what a write of the resources together would change at the proxies of every zone. It
// writes nothing.
func (c *Client) Diff(ctx context.Context, resources []*mesh.Resource,
	o DiffOptions) (*adminv1.DiffResponse, error) {
	req := &adminv1.DiffRequest{Size: o.Size, Verbose: o.Verbose, Guard: o.Guard}
	for _, r := range resources {
		p, err := r.Proto()
		if err != nil {
			return nil, err
		}
		req.Resources = append(req.Resources, p)
	}
	resp, err := c.diff.Diff(ctx, req)
	if err != nil {
		return nil, c.fail(err)
	}
	return resp, nil
}
