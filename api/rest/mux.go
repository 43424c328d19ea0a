package rest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
)

// handler answers a request or returns why not; it has written nothing if it returns an error.
type handler func(w http.ResponseWriter, r *http.Request, p params) error

// params are the variable segments of a path.
type params struct {
	// mesh and name of a resource.
	mesh, name string
	// last is another variable segment; tail is what the path has below an item.
	last string
	tail []string
}

// route is what a path offers.
type route struct {
	title string
	verbs map[string]handler
	// open: anonymous callers may, and a bad token is not looked at.
	open bool
}

func (rt *route) allow() string {
	var verbs []string
	for _, m := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
		if rt.verbs[m] != nil {
			verbs = append(verbs, m)
		}
	}
	return strings.Join(verbs, ", ")
}

// Variable segments of a pattern.
const (
	varMesh = "{mesh}"
	varName = "{name}"
	varLast = "{last}"
	varTail = "{tail...}" // one or more segments; they and the one before it are the tail
)

// node is a segment of the mux.
type node struct {
	route    *route
	children map[string]*node
}

// add puts a route at a pattern such as meshes/{mesh}/dataplanes.
func (n *node) add(pattern string, rt *route) {
	for segment := range strings.SplitSeq(pattern, "/") {
		if segment == "" {
			continue
		}
		child := n.children[segment]
		if child == nil {
			child = &node{}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[segment] = child
		}
		n = child
	}
	n.route = rt
}

// find is the route of a path, nil if there is none. A fixed segment goes before a variable one.
func (n *node) find(path []string, p *params) *route {
	if len(path) == 0 {
		return n.route
	}
	if child := n.children[path[0]]; child != nil {
		if rt := child.find(path[1:], p); rt != nil {
			return rt
		}
	}
	for _, v := range []struct {
		name string
		to   *string
	}{{varMesh, &p.mesh}, {varName, &p.name}, {varLast, &p.last}} {
		if child := n.children[v.name]; child != nil {
			*v.to = path[0]
			if rt := child.find(path[1:], p); rt != nil {
				return rt
			}
			*v.to = ""
		}
	}
	if child := n.children[varTail]; child != nil {
		p.tail = slices.Clone(path)
		return child.route
	}
	return nil
}

// aliases of plurals that Kuma's clients use.
var aliases = map[string]string{"global-secrets": "globalsecrets", "zoneingresses": "zone-ingresses"}

// routes generates the mux from the table of kinds.
func (h *Handler) routes() *node {
	root := &node{}
	get := func(pattern, title string, f handler) {
		root.add(pattern, &route{title: title, verbs: map[string]handler{http.MethodGet: f}})
	}
	root.add("", &route{
		title: problem.TitleAnswer,
		verbs: map[string]handler{http.MethodGet: h.index},
		open:  true,
	})
	get("who-am-i", problem.TitleAnswer, h.whoAmI)
	get("status", problem.TitleAnswer, h.getStatus)
	get("config", problem.TitleAnswer, h.getConfig)
	get("policies", problem.TitleAnswer, h.policies)
	get("_resources", problem.TitleAnswer, h.resources)
	get("-resources", problem.TitleAnswer, h.resources)
	get("audit", problem.TitleList, h.audit)
	get("changes/"+varLast, problem.TitleDebug, h.change)
	for what, issue := range h.issuers() {
		root.add("tokens/"+what, &route{
			title: problem.TitleToken,
			verbs: map[string]handler{http.MethodPost: h.issue(what, issue)},
		})
	}

	for _, info := range mesh.Kinds {
		plurals := []string{info.Plural}
		if alias, ok := aliases[info.Plural]; ok {
			plurals = append(plurals, alias)
		}
		for _, plural := range plurals {
			h.kindRoutes(root, info, plural)
		}
	}
	return root
}

// kindRoutes adds the paths of one kind: a collection over all meshes, and the collection of one
// mesh, or of none, with its items.
func (h *Handler) kindRoutes(root *node, info *mesh.KindInfo, plural string) {
	c := collection{Handler: h, info: info}
	withInsight := collection{Handler: h, info: info, overview: true}
	get := func(pattern, title string, f handler) {
		root.add(pattern, &route{title: title, verbs: map[string]handler{http.MethodGet: f}})
	}
	within := ""
	if info.Scope == mesh.ScopeMesh {
		within = "meshes/" + varMesh + "/"
	}
	for _, prefix := range slices.Compact([]string{"", within}) {
		get(prefix+plural, problem.TitleList, c.list)
		if overviewOf(info.Kind) != nil {
			get(prefix+plural+"/_overview", problem.TitleList, withInsight.list)
			get(prefix+plural+"+insights", problem.TitleList, withInsight.list)
		}
	}
	item := within + plural + "/" + varName
	root.add(item, &route{
		title: problem.TitleGet,
		verbs: map[string]handler{
			http.MethodGet:    c.get,
			http.MethodPut:    c.put,
			http.MethodDelete: c.delete,
		},
	})
	if overviewOf(info.Kind) != nil {
		get(item+"/_overview", problem.TitleGet, withInsight.get)
		get(within+plural+"+insights/"+varName, problem.TitleGet, withInsight.get)
	}

	if info.Kind == mesh.KindDataplane {
		for _, view := range []string{"_rules", "_config", "_layout", "_policies"} {
			get(item+"/"+view, problem.TitleInspect, c.view(view))
		}
		get(item+"/_inbounds/"+varTail, problem.TitleInspect, c.view("_inbounds"))
		get(item+"/_outbounds/"+varTail, problem.TitleInspect, c.view("_outbounds"))
	}
	if info.Kind == mesh.KindDataplane || info.Kind == mesh.KindZoneIngress {
		get(item+"/_delivery", problem.TitleDebug, c.proxyDelivery)
		for word, question := range envoyPaths {
			get(item+"/"+word, problem.TitleDebug, c.envoy(question))
		}
	}
	if info.Policy != nil {
		get(item+"/_resources/dataplanes", problem.TitleInspect, c.selected)
	}
	if d, ok := destination.Lookup(info.Kind); ok && d.Source == destination.Selected {
		get(item+"/_resources/dataplanes", problem.TitleInspect, c.members)
		get(item+"/_dataplanes", problem.TitleInspect, c.members)
	}
}
