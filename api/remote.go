package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/api/fanout"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// stateOffline is the state of a zone that is not asked.
const stateOffline = "Offline"

// offline says that a zone is known to be offline.
func (b *base) offline(zone string) bool {
	r, ok := b.cfg.Replica.View().Get(zoneKey(zone))
	return ok && mesh.Status[*meshv1.ZoneStatus](r).GetState() == stateOffline
}

func zoneKey(name string) mesh.Key { return mesh.Key{Kind: mesh.KindZone, Name: name} }

// zoneNames are the zones that global knows.
func zoneNames(v replica.View) []string {
	var out []string
	for z := range v.List(mesh.KindZone, "") {
		out = append(out, z.Key.Name)
	}
	return out
}

// checkZone is a problem if there is no zone of that name.
func checkZone(v replica.View, title, name string) error {
	if _, ok := v.Get(zoneKey(name)); !ok {
		return problem.NoZone(title, name)
	}
	return nil
}

// locate completes the key of something that zones have, of one of the kinds: the zone that has it.
func (r *reader) locate(ctx context.Context, title string, key mesh.Key,
	kinds ...mesh.Kind) (mesh.Key, error) {
	if !slices.Contains(kinds, key.Kind) {
		var names []string
		for _, k := range kinds {
			names = append(names, string(k))
		}
		return key, problem.Invalid(title, mesh.Violation{
			Field:  "key.kind",
			Reason: "must be " + strings.Join(names, " or "),
		})
	}
	if r.global() && key.Zone != "" {
		view, err := r.view(ctx, 0)
		if err != nil {
			return key, err
		}
		return key, checkZone(view, title, key.Zone) // the zone itself says whether it has it
	}
	found, err := r.Get(ctx, key, false, 0)
	if err != nil {
		return key, err
	}
	return found.Key, nil
}

// leftOut is the warning of a zone whose part is missing.
func leftOut(zone string, err error) string {
	return fmt.Sprintf("zone %s is left out: %s", zone, fanout.Reason(err))
}

// remote says that global does not hold resources of the kind: zones are asked.
func (b *base) remote(info *mesh.KindInfo) bool {
	return b.global() && info.Local() && info.Writers != mesh.GlobalOnly
}

// notHere is a problem that says where to watch a kind that global does not hold.
func (b *base) notHere(info *mesh.KindInfo) error {
	if !b.remote(info) {
		return nil
	}
	return problem.New(http.StatusBadRequest, problem.TitleList,
		"a %s is kept in its zone: watch it at the zone's control plane", info.Kind)
}

// zonePart is what one zone contributes to a list.
type zonePart struct {
	resources []*mesh.Resource
	total     int
}

// listRemote asks the zones for what global does not hold, all at once, and merges their answers. A
// zone that cannot be asked is named in the warnings; it is an error only if it was the one asked for.
func (b *base) listRemote(ctx context.Context, view replica.View, s Selection) (Page, error) {
	names := zoneNames(view)
	if s.Zone != nil {
		if err := checkZone(view, problem.TitleList, *s.Zone); err != nil {
			return Page{}, err
		}
		names = []string{*s.Zone}
	}
	// A page of the merged list can come from one zone alone; a filter that zones do not know needs
	// everything.
	most := s.Offset + s.Size
	if s.Keep != nil {
		most = math.MaxInt
	}
	parts := fanout.Each(ctx, b.zones, names, forwardTimeout,
		func(ctx context.Context, zone string) (zonePart, error) { return b.listZone(ctx, zone, s, most) })
	if ctx.Err() != nil {
		return Page{}, ctx.Err()
	}

	out := Page{Revision: view.Revision(), unreachable: map[string]bool{}}
	var all []*mesh.Resource
	for _, part := range parts {
		if part.Err != nil {
			if s.Zone != nil {
				u := &fanout.Unreachable{Zone: part.Zone, Reason: fanout.Reason(part.Err)}
				return Page{}, problem.New(http.StatusBadGateway, problem.TitleTunnel, "%s", u.Error()).
					Because(u)
			}
			out.unreachable[part.Zone] = true
			out.Warnings = append(out.Warnings, leftOut(part.Zone, part.Err))
			continue
		}
		out.Total += part.Value.total
		for _, r := range part.Value.resources {
			if s.Keep == nil || s.Keep(r) {
				all = append(all, r)
			} else {
				out.Total--
			}
		}
	}
	slices.SortFunc(all, func(x, y *mesh.Resource) int { return x.Key.Compare(y.Key) })
	if s.Offset < len(all) {
		out.Resources = all[s.Offset:min(len(all), s.Offset+s.Size)]
	}
	return out, nil
}

// getRemote finds the resources of a name in the zones.
func (b *base) getRemote(ctx context.Context, view replica.View, info *mesh.KindInfo, key mesh.Key,
	exact bool) (Page, error) {
	s := Selection{
		Kind: info,
		Mesh: key.Mesh,
		Name: key.Name,
		Size: MaxPage,
		Keep: func(r *mesh.Resource) bool {
			return r.Key.Name == key.Name && r.Key.Namespace == key.Namespace
		},
	}
	if exact {
		s.Zone = &key.Zone
	}
	return b.listRemote(ctx, view, s)
}

// listZone reads the first most resources of a zone, page by page.
func (b *base) listZone(ctx context.Context, zone string, s Selection, most int) (zonePart, error) {
	req := &adminv1.ListResourcesRequest{
		Kind:   string(s.Kind.Kind),
		Mesh:   s.Mesh,
		Labels: s.Labels,
		Name:   s.Name,
		Zone:   &zone,
	}
	var out zonePart
	for {
		req.Size = uint32(min(MaxPage, most-len(out.resources)))
		resp := &adminv1.ListResourcesResponse{}
		method := adminv1.ResourceService_ListResources_FullMethodName
		if err := fanout.Call(ctx, b.zones, zone, method, req, resp); err != nil {
			return zonePart{}, err
		}
		for _, p := range resp.GetResources() {
			r, err := mesh.FromProto(p)
			if err != nil {
				return zonePart{}, err
			}
			if r.Key.Zone == zone { // a zone speaks for its own resources alone
				out.resources = append(out.resources, r)
			}
		}
		out.total = int(resp.GetTotal())
		req.Offset += uint32(len(resp.GetResources()))
		if len(resp.GetResources()) == 0 || len(out.resources) >= most || req.Offset >= resp.GetTotal() {
			return out, nil
		}
	}
}

// dataplanesOf says, at global, which zone has a Dataplane of a mesh.
func (b *base) dataplanesOf(ctx context.Context, view replica.View,
	meshName string) (admission.DataplanesOf, error) {
	info, _ := mesh.Lookup(mesh.KindDataplane)
	got, err := b.listRemote(ctx, view, Selection{Kind: info, Mesh: meshName, Size: 1})
	if err != nil {
		return admission.DataplanesOf{}, err
	}
	out := admission.DataplanesOf{Unreachable: got.unreachable}
	for _, r := range got.Resources {
		out.Zone = r.Key.Zone
	}
	return out, nil
}
