package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// reader answers from the replica, and asks zones for what global does not store.
type reader struct{ *base }

// Selection of a list.
type Selection struct {
	Kind *mesh.KindInfo
	// Mesh is empty for all.
	Mesh string
	// Zone is the origin selected; nil: all.
	Zone *string
	// Labels that must be equal.
	Labels map[string]string
	// Name is a part of the name.
	Name string
	// Keep is a further filter, which zones do not know; nil: none.
	Keep func(*mesh.Resource) bool
	// Size and Offset are the page, in resources. After, if it is set, takes the place of Offset: the page
	// begins after that key, which need no longer be there, so that nothing is left out while others
	// delete. Lists of what zones are asked for know only offsets.
	Size, Offset int
	After        *mesh.Key
	// AtLeast is the revision of the store that the answer must show; 0 is any.
	AtLeast uint64
}

// Matches says that a resource is selected, kind and mesh left aside.
func (s *Selection) Matches(r *mesh.Resource) bool {
	if s.Zone != nil && r.Key.Zone != *s.Zone {
		return false
	}
	if !strings.Contains(r.Key.Name, s.Name) {
		return false
	}
	for k, v := range s.Labels {
		if got, ok := r.Labels[k]; !ok || got != v {
			return false
		}
	}
	return s.Keep == nil || s.Keep(r)
}

// Page of a list.
type Page struct {
	Resources []*mesh.Resource
	// Total counts what is selected, on all pages.
	Total int
	// Next is the After of the next page; nil if there is none, or it is known by its offset alone.
	Next *mesh.Key
	// Revision of the store that the answer shows.
	Revision uint64
	// Warnings name the zones that could not be asked.
	Warnings []string

	unreachable map[string]bool
}

// List reads a page of resources in the order of their keys.
func (r *reader) List(ctx context.Context, s Selection) (Page, error) {
	const method = adminv1.ResourceService_ListResources_FullMethodName
	if _, err := authz.Authorize(ctx, method, s.Kind); err != nil {
		return Page{}, err
	}
	view, err := r.view(ctx, s.AtLeast)
	if err != nil {
		return Page{}, err
	}
	if s.Mesh != "" {
		if err := checkMesh(view, s.Kind, s.Mesh); err != nil {
			return Page{}, err
		}
	}
	if r.remote(s.Kind) {
		if s.After != nil {
			return Page{}, problem.Invalid(problem.TitleList, mesh.Violation{
				Field: "after",
				Reason: fmt.Sprintf(
					"must not be given for %s, for which zones are asked: use offset",
					s.Kind.Plural,
				),
			})
		}
		return r.listRemote(ctx, view, s)
	}
	out := Page{Revision: view.Revision()}
	for res := range view.List(s.Kind.Kind, s.Mesh) {
		if !s.Matches(res) {
			continue
		}
		begun := out.Total >= s.Offset
		if s.After != nil {
			begun = res.Key.Compare(*s.After) > 0
		}
		switch {
		case !begun:
		case len(out.Resources) < s.Size:
			out.Resources = append(out.Resources, r.asHere(view, res))
		case out.Next == nil && len(out.Resources) > 0:
			out.Next = &out.Resources[len(out.Resources)-1].Key
		}
		out.Total++
	}
	return out, r.secretRead(ctx, s.Kind, mesh.Key{Mesh: s.Mesh}, fmt.Sprintf("%d of a list",
		len(out.Resources)))
}

// checkMesh is a problem if resources of the kind belong to a mesh and it does not exist.
func checkMesh(view replica.View, info *mesh.KindInfo, name string) error {
	if info.Scope != mesh.ScopeMesh {
		return nil
	}
	if _, ok := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: name}); !ok {
		return problem.New(http.StatusNotFound, problem.TitleMesh, "Not found: there is no mesh %q", name)
	}
	return nil
}

// NotFoundError is the cause of the problem of a read that found nothing.
type NotFoundError struct{ Key mesh.Key }

// Error names the key.
func (e *NotFoundError) Error() string { return "not found: " + e.Key.String() }

// Get finds one resource. exact: key.Zone is meant as it is; otherwise an empty one means the only
// resource of that name. An empty namespace means that of the only resource of that name, too. The
// problem of one that is not there has a [*NotFoundError] as its cause.
func (r *reader) Get(ctx context.Context, key mesh.Key, exact bool, atLeast uint64) (*mesh.Resource, error) {
	info, ok := mesh.Lookup(key.Kind)
	if !ok {
		return nil, problem.UnknownKind(key.Kind)
	}
	if _, err := authz.Authorize(ctx, adminv1.ResourceService_GetResource_FullMethodName, info); err != nil {
		return nil, err
	}
	view, err := r.view(ctx, atLeast)
	if err != nil {
		return nil, err
	}
	if err := checkMesh(view, info, key.Mesh); err != nil {
		return nil, err
	}

	exact = exact || key.Zone != ""
	var found []*mesh.Resource
	remark := ""
	switch {
	case r.remote(info):
		got, err := r.getRemote(ctx, view, info, key, exact)
		if err != nil {
			return nil, err
		}
		found = got.Resources
		if len(got.Warnings) > 0 {
			remark = " (" + strings.Join(got.Warnings, "; ") + ")"
		}
	default:
		if res, ok := view.Get(key); ok && exact {
			found = append(found, res)
			break
		}
		for res := range view.List(key.Kind, key.Mesh) {
			if admission.Named(key, res.Key) && (!exact || res.Key.Zone == key.Zone) {
				found = append(found, res)
			}
		}
	}

	switch len(found) {
	case 0:
		return nil, problem.New(http.StatusNotFound, problem.TitleGet, "Not found%s", remark).
			Because(&NotFoundError{Key: key})
	case 1:
		if err := r.secretRead(ctx, info, found[0].Key, ""); err != nil {
			return nil, err
		}
		return r.asHere(view, found[0]), nil
	}
	var zones []string
	for _, res := range found {
		if res.Key.Namespace != found[0].Key.Namespace {
			return nil, problem.New(
				http.StatusConflict,
				problem.TitleGet,
				"several namespaces have a %s of that "+
					"name, such as %s/%s and %s/%s: name the namespace",
				key.Kind,
				found[0].Key.Namespace,
				key.Name,
				res.Key.Namespace,
				key.Name,
			)
		}
		if res.Key.Zone == "" {
			zones = append(zones, "global (zone=)")
		} else {
			zones = append(zones, res.Key.Zone)
		}
	}
	return nil, problem.New(http.StatusConflict, problem.TitleGet,
		"several zones have a %s of that name: %s; %s", key.Kind, strings.Join(zones, ", "), hint.OneZone)
}
