package inspect

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// CanEmpty says that a change of a resource of the kind can leave a route or a destination without an
// instance.
func CanEmpty(kind mesh.Kind) bool {
	return kind == mesh.KindMeshHTTPRoute || kind == mesh.KindMeshTCPRoute ||
		kind == mesh.KindMeshLoadBalancingStrategy || kind == mesh.KindDataplane || destination.Is(kind)
}

// Change is what would be written together.
type Change struct {
	// Puts are resources as they would be stored, Deletes the keys of those that would be removed.
	Puts    []*mesh.Resource
	Deletes []mesh.Key
}

// Diff is what would change at the proxies of a zone if c were written: every proxy's table is computed
// over the view, c is laid over it, and what the engine computes again is compared. The first size changed
// proxies are named (0: [DefaultSize]); verbose adds what changes within each resource.
func Diff(view replica.View, zone string, c Change, size int, verbose bool) (*adminv1.ZoneDiff, error) {
	d := &differ{
		view:    view,
		zone:    zone,
		out:     &adminv1.ZoneDiff{Zone: zone},
		size:    cmp.Or(size, DefaultSize),
		verbose: verbose,
		shared:  map[change]*adminv1.ResourceDiff{},
		groups:  map[group]*adminv1.ResourceDiff{},
		emptied: map[string]uint32{},
	}
	s := xds.NewStatic(zone, view)
	before := map[mesh.Key]*delta.Table{}
	var failed []error
	for _, kind := range []mesh.Kind{mesh.KindDataplane, mesh.KindZoneIngress} {
		for r := range view.List(kind, "") {
			if r.Key.Zone == zone {
				before[r.Key], failed = s.Table(r.Key)
			}
		}
	}
	d.out.Proxies = uint32(len(before))
	after, changes := overlay(view, c)
	d.after = after
	changed := s.Apply(after, changes)
	slices.SortFunc(changed, mesh.Key.Compare)
	d.failures(failed, s.Failures())
	seen := map[string][]string{}
	for _, k := range changed {
		now, _ := s.Table(k)
		step := now.Diff(before[k])
		if step.Empty() {
			continue
		}
		d.out.Changed++
		if len(d.out.Names) < d.size {
			d.out.Names = append(d.out.Names, k.Proto())
		}
		fingerprint, err := d.count(k, before[k], step)
		if err != nil {
			return nil, err
		}
		if err := d.guard(s, k, fingerprint, seen); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(d.groups), compareGroups) {
		d.out.Resources = append(d.out.Resources, d.groups[key])
	}
	for _, text := range sortedKeys(d.emptied) {
		d.out.Emptied = append(d.out.Emptied,
			fmt.Sprintf("%s, at %d of %d proxies", text, d.emptied[text], d.out.Proxies))
	}
	return d.out, nil
}

// overlay is the view as it would be after a write. A resource that replaces another keeps its
// status; of two of one key the later one counts.
func overlay(view replica.View, c Change) (replica.View, []store.Change) {
	var changes []store.Change
	for _, k := range c.Deletes {
		if old, there := view.Get(k); there {
			changes = append(changes, store.Change{Type: store.ChangeDelete, Key: k, Old: old})
		}
	}
	for i, r := range c.Puts {
		if slices.ContainsFunc(c.Puts[i+1:],
			func(later *mesh.Resource) bool { return later.Key == r.Key }) {
			continue
		}
		now := r.Clone()
		now.Revision = view.Revision() + 1
		old, there := view.Get(r.Key)
		if there {
			now.Status, now.Created = old.Status, old.Created
		}
		changes = append(changes, store.Change{
			Type:     store.ChangeSpec,
			Key:      r.Key,
			Resource: now,
			Old:      old,
		})
	}
	return view.With(view.Revision()+1, changes), changes
}

type differ struct {
	view    replica.View
	zone    string
	out     *adminv1.ZoneDiff
	size    int
	verbose bool
	// shared is the group of a change that was seen before.
	shared map[change]*adminv1.ResourceDiff
	groups map[group]*adminv1.ResourceDiff
	// emptied counts proxies by what would be empty.
	emptied map[string]uint32
	// after is the view as it would be.
	after replica.View
	// was is the engine over the view as it is; made when first asked.
	was *xds.Static
}

// change of a resource: proxies that share the resource before and after share the change.
type change struct {
	typ      delta.Type
	name     string
	old, now *delta.Resource
}

// group is changes that read the same: proxies have listeners of one name that differ in their
// address, and change alike.
type group struct {
	typ         delta.Type
	name, lines string
	action      adminv1.ChangeAction
}

var resourceTypes = map[delta.Type]adminv1.ResourceType{
	delta.TypeCluster:  adminv1.ResourceType_RESOURCE_TYPE_CLUSTER,
	delta.TypeEndpoint: adminv1.ResourceType_RESOURCE_TYPE_ENDPOINT,
	delta.TypeListener: adminv1.ResourceType_RESOURCE_TYPE_LISTENER,
	delta.TypeRoute:    adminv1.ResourceType_RESOURCE_TYPE_ROUTE,
	delta.TypeSecret:   adminv1.ResourceType_RESOURCE_TYPE_SECRET,
}

// ResourceType is a type of xDS resource as the API names it.
func ResourceType(t delta.Type) adminv1.ResourceType { return resourceTypes[t] }

func compareGroups(a, b group) int {
	return cmp.Or(cmp.Compare(a.typ, b.typ), cmp.Compare(a.name, b.name), cmp.Compare(a.action, b.action),
		cmp.Compare(a.lines, b.lines))
}

func (d *differ) groupOf(c change) (*adminv1.ResourceDiff, error) {
	if r := d.shared[c]; r != nil {
		return r, nil
	}
	r := &adminv1.ResourceDiff{
		Type:   ResourceType(c.typ),
		Name:   c.name,
		Action: adminv1.ChangeAction_CHANGE_ACTION_CHANGED,
	}
	switch {
	case c.old == nil:
		r.Action = adminv1.ChangeAction_CHANGE_ACTION_ADDED
	case c.now == nil:
		r.Action = adminv1.ChangeAction_CHANGE_ACTION_REMOVED
	}
	if d.verbose {
		var err error
		if r.Lines, err = lines(c.old, c.now); err != nil {
			return nil, err
		}
	}
	key := group{typ: c.typ, name: c.name, lines: strings.Join(r.Lines, "\n"), action: r.Action}
	if like := d.groups[key]; like != nil {
		r = like
	}
	d.shared[c], d.groups[key] = r, r
	return r, nil
}

// failures notes what fails with the change and did not without it.
func (d *differ) failures(before, after []error) {
	had := map[string]bool{}
	for _, err := range before {
		had[err.Error()] = true
	}
	for _, err := range after {
		if !had[err.Error()] {
			d.out.Failures = append(d.out.Failures, err.Error())
		}
	}
	slices.Sort(d.out.Failures)
}

// count adds a proxy's changes. Proxies with the same changes have the same fingerprint.
func (d *differ) count(proxy mesh.Key, before *delta.Table,
	step *delta.Step) (fingerprint string, err error) {
	note := func(c change) {
		fingerprint += fmt.Sprintf("%p %p ", c.old, c.now)
		r, failed := d.groupOf(c)
		if failed != nil {
			err = failed
			return
		}
		r.Proxies++
		if len(r.Names) < d.size {
			r.Names = append(r.Names, proxy.Proto())
		}
	}
	for _, typ := range delta.Types {
		for _, r := range step.Changed[typ] {
			note(change{typ, r.Name, before.Lookup(typ, r.Name), r})
		}
		for _, name := range step.Removed[typ] {
			note(change{typ, name, before.Lookup(typ, name), nil})
		}
	}
	return fingerprint, err
}

// guard notes what a proxy would have that leads nowhere, and did not before. Of proxies with the
// same changes one is asked.
func (d *differ) guard(s *xds.Static, k mesh.Key, fingerprint string, seen map[string][]string) error {
	if k.Kind != mesh.KindDataplane {
		return nil
	}
	texts, known := seen[fingerprint]
	if !known {
		in, err := s.Inspect(k)
		if err != nil {
			return fmt.Errorf("the configuration of %s cannot be computed: %w", k.Name, err)
		}
		if d.was == nil {
			d.was = xds.NewStatic(d.zone, d.view)
		}
		old, err := d.was.Inspect(k)
		if err != nil {
			return fmt.Errorf("the configuration of %s cannot be computed: %w", k.Name, err)
		}
		texts = sortedKeys(newlyEmpty(old, in, d.after))
		seen[fingerprint] = texts
	}
	for _, text := range texts {
		d.emptied[text]++
	}
	return nil
}

// newlyEmpty are the dead ends of a proxy that it did not have before. Where nothing sent to a
// destination had an instance before either, a change removes nothing: routes may come before
// the instances that they are for. A destination that is not in the view after the change is a dead end
// although the proxy no longer has an outbound for it.
func newlyEmpty(old, now *xds.Inspection, after replica.View) map[string]mesh.Key {
	had, out := deadEnds(old), deadEnds(now)
	if old != nil {
		for _, o := range old.Outbounds {
			if _, there := after.Get(o.Ref.Key); !there {
				out[o.Ref.KRI()+" would no longer exist"] = o.Ref.Key
			}
		}
	}
	alive := map[mesh.Key]bool{}
	if old != nil {
		for _, o := range old.Outbounds {
			for _, c := range o.Clusters {
				alive[o.Ref.Key] = alive[o.Ref.Key] || len(c.Endpoints) > 0
			}
		}
	}
	maps.DeleteFunc(out, func(text string, to mesh.Key) bool {
		_, known := had[text]
		return known || !alive[to]
	})
	return out
}

// deadEnds are the routes and destinations of a proxy without an instance to go to, in words, and
// the destination of each.
func deadEnds(in *xds.Inspection) map[string]mesh.Key {
	out := map[string]mesh.Key{}
	if in == nil {
		return out
	}
	for _, o := range in.Outbounds {
		if c := o.Clusters[o.Ref.KRI()]; len(c.Endpoints) == 0 {
			out[o.Ref.KRI()+" would have no endpoint"] = o.Ref.Key
		}
		dead := func(list []ir.Backend) bool {
			return !slices.ContainsFunc(list,
				func(b ir.Backend) bool { return b.Weight > 0 && len(o.Clusters[b.Cluster].Endpoints) > 0 })
		}
		for _, r := range o.Routes {
			if r.Redirect == nil && (r.Status != 0 || dead(r.Backends)) {
				out[fmt.Sprintf("the route of %s to %s would have no instance", matchText(r.Match),
					o.Ref.KRI())] = o.Ref.Key
			}
		}
		if len(o.Connections) > 0 && dead(o.Connections) {
			out[fmt.Sprintf("connections to %s would have no instance", o.Ref.KRI())] = o.Ref.Key
		}
	}
	return out
}

// lines compares two resources value by value.
func lines(old, now *delta.Resource) ([]string, error) {
	a, err := flat(old)
	if err != nil {
		return nil, err
	}
	b, err := flat(now)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	var out []string
	for _, path := range sortedKeys(all) {
		was, had := a[path]
		is, has := b[path]
		if had && has && was == is {
			continue
		}
		if had {
			out = append(out, "- "+path+": "+was)
		}
		if has {
			out = append(out, "+ "+path+": "+is)
		}
	}
	return out, nil
}

// flat is a resource as values by path.
func flat(r *delta.Resource) (map[string]string, error) {
	out := map[string]string{}
	if r == nil {
		return out, nil
	}
	m, err := (&anypb.Any{TypeUrl: r.Type.URL(), Value: r.Body}).UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("resource %s cannot be read back: %w", r.Name, err)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("resource %s cannot be written as JSON: %w", r.Name, err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	flatten(out, "", v)
	return out, nil
}

func flatten(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if path != "" {
				k = path + "." + k
			}
			flatten(out, k, e)
		}
	case []any:
		for i, e := range v {
			flatten(out, path+"["+strconv.Itoa(i)+"]", e)
		}
	default:
		text, _ := json.Marshal(v)
		out[path] = string(text)
	}
}
