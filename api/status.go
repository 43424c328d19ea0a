package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// delivery answers how the control plane is, and how far a change has got.
type delivery struct{ *base }

// Status of this control plane.
func (d *delivery) Status(ctx context.Context) (*adminv1.GetStatusResponse, error) {
	if _, err := authz.Authorize(ctx, adminv1.StatusService_GetStatus_FullMethodName, nil); err != nil {
		return nil, err
	}
	if d.cfg.Status != nil {
		return d.cfg.Status(ctx), nil
	}
	return &adminv1.GetStatusResponse{
		Role:     d.cfg.Role,
		Zone:     d.cfg.Zone,
		Instance: d.cfg.Instance,
		Version:  d.cfg.Version,
		Revision: d.cfg.Replica.View().Revision(),
	}, nil
}

// Wait waits for delivery, at most timeout; a delivery that is not complete by then is an answer,
// not an error.
func (d *delivery) Wait(ctx context.Context, revision uint64,
	timeout time.Duration) (*adminv1.WaitRevisionResponse, error) {
	if _, err := authz.Authorize(ctx, adminv1.StatusService_WaitRevision_FullMethodName, nil); err != nil {
		return nil, err
	}
	if d.cfg.Wait == nil {
		return nil, problem.New(http.StatusNotImplemented, "Could not wait",
			"this control plane does not know who has answered")
	}
	start := time.Now()
	wait, cancel := context.WithTimeout(ctx, min(max(timeout, 0), MaxWait))
	defer cancel()
	epoch := d.cfg.Replica.View().Epoch()
	head, err := d.cfg.Store.Revision(wait)
	if err != nil {
		return nil, err
	}
	resp := &adminv1.WaitRevisionResponse{}
	if revision <= head {
		if got := d.cfg.Wait(wait, revision); got != nil {
			resp = got
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	// A number is the revision that was written only in the epoch in which it was.
	if revision > head || d.cfg.Replica.View().Epoch() != epoch {
		resp.Complete = false
		resp.Zones = append(resp.Zones, &adminv1.ZoneDelivery{Reason: fmt.Sprintf(
			"there is no revision %d: the store went back to an earlier state, or the number is of another "+
				"store; see whether what was written is there, and write it again if not", revision)})
	}
	// Measured around the deadline, so that a timeout of a second never reads as a little less.
	resp.Took = durationpb.New(time.Since(start))
	return resp, nil
}

// ProcessConfig is the process's configuration as JSON.
func (d *delivery) ProcessConfig(ctx context.Context) ([]byte, error) {
	if _, err := authz.Authorize(ctx, authz.GetConfig, nil); err != nil {
		return nil, err
	}
	if d.cfg.ProcessConfig == nil {
		return nil, problem.New(http.StatusNotFound, problem.TitleAnswer,
			"this process was started without a configuration to show")
	}
	e := entry(ctx, actionDump)
	e.What = "the configuration of the process"
	d.audit.try(ctx, e)
	return d.cfg.ProcessConfig()
}

// MayListKinds says whether ctx's caller may see which kinds there are.
func (d *delivery) MayListKinds(ctx context.Context) error {
	_, err := authz.Authorize(ctx, authz.GetKinds, nil)
	return err
}
