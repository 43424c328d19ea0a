package kdstest

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// Script runs commands on a World. One line is one command, "verb word… name=value…":
//
//	put AT NAME… [kind=MeshTimeout] [value=1]   writes at "global" or a zone
//	status AT NAME… kind=K                      writes a status
//	delete AT NAME… [kind=…]
//	zone NAME enabled=true|false                writes the Zone resource at global
//	connect ZONE [down|up]                      and cut, likewise
//	restart AT, recreate AT                     forgets memory; gets another store with what it owns
//	deliver ZONE down|up [n=1] [back]           hands on n frames; back: the answers
//	stabilize, digests, summaries               delivers all; makes all Sources send digests
//	announce                                    makes all lazy Sources send a bookmark
//	compact AT                                  drops the whole log
//	refuse AT NAME, accept AT NAME              what a node's Sinks refuse
//	tamper AT NAME [kind=…]                     deletes a copy behind the Sink's back
//	skew ZONE KIND                              gives the zone another schema of the kind; unskew ends it
//	swap|drop|repeat ZONE down|up               spoils the first frames of a wire, as no transport should
//	show AT                                     lists what a node has
type Script struct {
	World *World
	out   *strings.Builder
}

// NewScript makes a World whose trace is the script's output.
func NewScript(cfg Config) *Script {
	out := &strings.Builder{}
	cfg.Trace = out
	return &Script{World: New(cfg), out: out}
}

// Run runs lines and returns what happened; a broken promise or a wrong command is the last line of it.
func (s *Script) Run(lines string) string {
	s.out.Reset()
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		if err := s.command(strings.Fields(line)); err != nil {
			fmt.Fprintf(s.out, "error: %v\n", err)
			break
		}
	}
	if s.out.Len() == 0 {
		return "ok\n"
	}
	return s.out.String()
}

type args struct {
	words []string
	named map[string]string
}

func (a args) word(i int) string {
	if i < len(a.words) {
		return a.words[i]
	}
	return ""
}

func (s *Script) command(fields []string) error {
	a := args{named: map[string]string{}}
	for _, f := range fields[1:] {
		if k, v, ok := strings.Cut(f, "="); ok {
			a.named[k] = v
		} else {
			a.words = append(a.words, f)
		}
	}
	w := s.World
	switch verb := fields[0]; verb {
	case "put", "status", "delete":
		return s.write(verb, a)
	case "zone":
		on := a.named["enabled"] != "false"
		return w.Commit(w.Global, store.Put{Resource: &mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindZone, Name: a.word(0)},
			Spec: &meshv1.Zone{Enabled: &on},
		}})
	case "connect", "cut":
		for _, d := range []kds.Direction{kds.Down, kds.Up} {
			if a.word(1) != "" && a.word(1) != d.String() {
				continue
			}
			x := w.Wire(a.word(0), d)
			if verb == "cut" {
				w.Cut(x)
			} else if err := w.Connect(x); err != nil {
				return err
			}
		}
	case "restart":
		w.Restart(s.node(a.word(0)))
	case "recreate":
		return w.Recreate(s.node(a.word(0)))
	case "deliver":
		d := kds.Down
		if a.word(1) == "up" {
			d = kds.Up
		}
		n := 1
		if v, ok := a.named["n"]; ok {
			n, _ = strconv.Atoi(v)
		}
		for range n {
			if _, err := w.Deliver(w.Wire(a.word(0), d), a.word(2) != "back"); err != nil {
				return err
			}
		}
	case "stabilize":
		return w.Stabilize()
	case "digests":
		return w.CheckDigests()
	case "summaries":
		return w.CheckSummaries()
	case "announce":
		return w.Announce()
	case "compact":
		n := s.node(a.word(0))
		return n.Compact()
	case "refuse":
		s.node(a.word(0)).Refuse[a.word(1)] = true
	case "accept":
		delete(s.node(a.word(0)).Refuse, a.word(1))
	case "tamper":
		n := s.node(a.word(0))
		for r := range n.View().All() {
			if r.Key.Name == a.word(1) && string(r.Key.Kind) == cmpOr(a.named["kind"], "MeshTimeout") {
				n.tampered = true
				return n.commit(store.Txn{Author: "tamper", Ops: []store.Op{store.Delete{Key: r.Key}}})
			}
		}
		return fmt.Errorf("nothing to tamper with")
	case "skew":
		w.Skew(a.word(0), mesh.Kind(a.word(1)))
	case "unskew":
		w.Skew(a.word(0), "")
	case "swap", "drop", "repeat":
		d := kds.Down
		if a.word(1) == "up" {
			d = kds.Up
		}
		x := w.Wire(a.word(0), d)
		switch {
		case verb == "swap" && len(x.forth) > 1:
			x.forth[0], x.forth[1] = x.forth[1], x.forth[0]
		case verb == "drop" && len(x.forth) > 0:
			x.forth = x.forth[1:]
		case verb == "repeat" && len(x.forth) > 0:
			x.forth = append([]*kdsv1.Frame{x.forth[0]}, x.forth...)
		default:
			return fmt.Errorf("too few frames to %s", verb)
		}
	case "show":
		s.show(s.node(a.word(0)))
	default:
		return fmt.Errorf("unknown command %q", verb)
	}
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (s *Script) node(name string) *Node {
	if n := s.World.Zones[name]; n != nil {
		return n
	}
	return s.World.Global
}

func (s *Script) show(n *Node) {
	var lines []string
	for r := range n.View().All() {
		lines = append(lines, fmt.Sprintf("  %s@%d", short(r.Key), r.OriginRevision))
	}
	if len(lines) == 0 {
		lines = []string{"  nothing"}
	}
	sort.Strings(lines)
	fmt.Fprintf(s.out, "%s at %d:\n%s\n", n.Name, n.revision(), strings.Join(lines, "\n"))
}

func (s *Script) write(verb string, a args) error {
	n := s.node(a.word(0))
	kind := mesh.Kind(cmpOr(a.named["kind"], "MeshTimeout"))
	value, _ := strconv.Atoi(cmpOr(a.named["value"], "1"))
	var ops []store.Op
	for _, name := range a.words[1:] {
		r, err := Make(kind, n.zone(), name, value)
		if err != nil {
			return err
		}
		if l, ok := a.named["sync"]; ok {
			r.Labels = map[string]string{mesh.LabelSync: l}
		}
		switch verb {
		case "put":
			ops = append(ops, store.Put{Resource: r})
		case "status":
			ops = append(ops, store.PutStatus{Key: r.Key, Status: MakeStatus(kind, value)})
		default:
			ops = append(ops, store.Delete{Key: r.Key})
		}
	}
	return s.World.Commit(n, ops...)
}

func (n *Node) zone() string {
	if n.Name == "global" {
		return ""
	}
	return n.Name
}

// Compact drops a node's whole log.
func (n *Node) Compact() error {
	return n.Store.Compact(context.Background(), n.revision())
}

// Skew makes a zone claim another schema of a kind; an empty kind ends that. It matters from the
// next Connect.
func (w *World) Skew(zone string, kind mesh.Kind) {
	delete(w.schemas, zone)
	if kind == "" {
		return
	}
	schemas := kds.Schemas()
	i := slices.IndexFunc(schemas, func(s *kdsv1.KindSchema) bool { return s.GetKind() == string(kind) })
	schemas[i].Digest = []byte("another")
	w.schemas[zone] = schemas
}

// Make makes a resource whose spec depends on value.
func Make(kind mesh.Kind, zone, name string, value int) (*mesh.Resource, error) {
	info, ok := mesh.Lookup(kind)
	if !ok {
		return nil, fmt.Errorf("unknown kind %q", kind)
	}
	r := &mesh.Resource{Key: mesh.Key{Kind: kind, Zone: zone, Name: name}, Spec: info.NewSpec()}
	if info.Scope == mesh.ScopeMesh {
		r.Key.Mesh = mesh.DefaultMesh
	}
	switch spec := r.Spec.(type) {
	case *meshv1.MeshTimeout:
		spec.To = []*meshv1.MeshTimeout_To{{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh"},

			Default: &meshv1.MeshTimeout_Conf{
				IdleTimeout: durationpb.New(time.Duration(value) * time.Second),
			},
		}}
	case *meshv1.Secret:
		spec.Data = []byte{byte(value)}
	case *meshv1.GlobalSecret:
		spec.Data = []byte{byte(value)}
	default:
		r.Labels = map[string]string{"value": strconv.Itoa(value)}
	}
	return r, nil
}

// MakeStatus makes a status that depends on value; an empty one for kinds that have nothing to vary.
func MakeStatus(kind mesh.Kind, value int) proto.Message {
	info, _ := mesh.Lookup(kind)
	status := info.NewStatus()
	conditions := []*meshv1.Condition{{Type: "Value", Message: strconv.Itoa(value)}}
	switch st := status.(type) {
	case *meshv1.MeshServiceStatus:
		st.Tls = &meshv1.MeshServiceStatus_TlsStatus{Status: strconv.Itoa(value)}
	case *meshv1.MeshMultiZoneServiceStatus:
		st.MeshServices = []*meshv1.MeshMultiZoneServiceStatus_Member{{Name: "m", Total: uint32(value)}}
	case *meshv1.DeliveryStatus:
		st.Conditions = conditions
	}
	return status
}
