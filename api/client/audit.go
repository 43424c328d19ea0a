package client

import (
	"context"

	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// Audit reads a page of the control plane's audit, newest first. Its Next is the Below of the page after it.
func (c *Client) Audit(ctx context.Context,
	req *adminv1.ListAuditRequest) (*adminv1.ListAuditResponse, error) {
	resp, err := c.audit.ListAudit(ctx, req)
	if err != nil {
		return nil, c.fail(err)
	}
	return resp, nil
}
