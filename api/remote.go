package api

import (
	"context"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// forwardParallel bounds the zones asked at once.
const forwardParallel = 16

// listRemote asks the zones for what global does not hold, all at once, and merges their answers. A
// zone that is away is named in the warnings; it is no error unless it was the one asked for.
func (a *API) listRemote(ctx context.Context, view replica.View, info *mesh.KindInfo,
	s selection) (listing, error) {
	states := zonesOf(view)
	var names []string
	if s.zone != nil {
		if _, ok := states[*s.zone]; !ok {
			return listing{}, problem(http.StatusNotFound, titleList, "there is no zone %q", *s.zone)
		}
		names = []string{*s.zone}
	} else {
		for name := range states {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	// A page of the merged list can come from one zone alone; a filter that zones do not know needs
	// everything.
	want := s.offset + s.size
	if s.keep != nil {
		want = int(^uint(0) >> 1)
	}
	type answer struct {
		resources []*mesh.Resource
		total     int
		away      string
	}
	answers := make([]answer, len(names))
	var g errgroup.Group
	g.SetLimit(forwardParallel)
	for i, name := range names {
		if a.conf.Forward == nil {
			answers[i].away = "this control plane has no way to ask it"
			continue
		}
		if st := states[name]; st == "Offline" {
			answers[i].away = "it is offline"
			continue
		}
		g.Go(func() error {
			rs, total, err := a.listZone(ctx, name, info, s, want)
			if err != nil {
				answers[i].away = fromGRPC(err).Detail
				return nil
			}
			answers[i] = answer{resources: rs, total: total}
			return nil
		})
	}
	_ = g.Wait() // none fails
	if ctx.Err() != nil {
		return listing{}, ctx.Err()
	}
	out := listing{revision: view.Revision(), away: map[string]bool{}}
	var all []*mesh.Resource
	for i, ans := range answers {
		if ans.away != "" {
			if s.zone != nil {
				return listing{},
					problem(http.StatusBadGateway, titleTunnel, "zone %s cannot be asked: %s", names[i],
						ans.away)
			}
			out.away[names[i]] = true
			out.warnings = append(out.warnings, awayWarning(names[i], ans.away))
			continue
		}
		out.total += ans.total
		for _, r := range ans.resources {
			if s.keep == nil || s.keep(r) {
				all = append(all, r)
			} else {
				out.total--
			}
		}
	}
	sortResources(all)
	if s.offset < len(all) {
		out.resources = all[s.offset:min(len(all), s.offset+s.size)]
	}
	return out, nil
}

// listZone reads the first want resources of a zone, page by page.
func (a *API) listZone(ctx context.Context, zone string, info *mesh.KindInfo, s selection,
	want int) ([]*mesh.Resource, int, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	// What comes back must be the zone's own: another zone's resources are another zone's to tell.
	req := &adminv1.ListResourcesRequest{
		Kind:   string(info.Kind),
		Mesh:   s.mesh,
		Labels: s.labels,
		Name:   s.name,
		Zone:   &zone,
	}
	var out []*mesh.Resource
	for {
		req.Size = uint32(min(maxPage, want-len(out)))
		body, err := proto.Marshal(req)
		if err != nil {
			return nil, 0, err
		}
		raw, err := a.conf.Forward(ctx, zone, adminv1.ResourceService_ListResources_FullMethodName, body)
		if err != nil {
			return nil, 0, err
		}
		resp := &adminv1.ListResourcesResponse{}
		if err := proto.Unmarshal(raw, resp); err != nil {
			return nil, 0, err
		}
		for _, p := range resp.GetResources() {
			r, err := mesh.FromProto(p)
			if err != nil {
				return nil, 0, err
			}
			if r.Key.Zone == zone {
				out = append(out, r)
			}
		}
		req.Offset += uint32(len(resp.GetResources()))
		if len(resp.GetResources()) == 0 || len(out) >= want || req.Offset >= resp.GetTotal() {
			return out, int(resp.GetTotal()), nil
		}
	}
}
