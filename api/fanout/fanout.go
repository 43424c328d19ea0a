// Package fanout asks zones: one or many, at once, each within a time, with an answer or an error
// per zone.
//
// # Model
//
// [One] asks one zone and [All] asks several; both go through [Each], the only place that runs
// requests to zones. What a zone answers in error is a [*problem.Problem] of its own; a zone that
// could not be asked at all (no connection, Offline, no answer in time) is the same with an
// [*Unreachable] as its cause. [Reason] is the text of either for a list of warnings.
//
// # Failure
//
// A zone never fails the others. When the context of the caller ends, what is outstanding ends with
// an error each.
//
// # Concurrency
//
// Everything is safe for concurrent use. At most [Parallel] zones are asked at once by one call.
package fanout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/api/problem"
)

// Parallel bounds the zones that one call asks at once.
const Parallel = 16

// Zones is the way to the zones.
type Zones struct {
	// Call runs a unary method of meridian.admin.v1 at a zone; errors are gRPC status errors. Nil:
	// this control plane has no way to ask.
	Call func(ctx context.Context, zone, method string, req []byte) ([]byte, error)
	// Offline says that a zone is known to be offline: it is not asked.
	Offline func(zone string) bool
}

// Unreachable says that a zone could not be asked.
type Unreachable struct {
	Zone string
	// Reason is for people.
	Reason string
}

// Error names the zone and the reason.
func (e *Unreachable) Error() string {
	return fmt.Sprintf("zone %s cannot be asked: %s", e.Zone, e.Reason)
}

func (e *Unreachable) problem(status int) *problem.Problem {
	return problem.New(status, problem.TitleTunnel, "%s", e.Error()).Because(e)
}

// Reason is why a zone's part is missing, without the zone's name.
func Reason(err error) string {
	var u *Unreachable
	var p *problem.Problem
	switch {
	case errors.As(err, &u):
		return u.Reason
	case errors.As(err, &p):
		return p.Detail
	}
	return err.Error()
}

// Result is the answer of one zone.
type Result[T any] struct {
	Zone string
	// Value is the answer if Err is nil.
	Value T
	// Err is a [*problem.Problem], or the error of the caller's context.
	Err error
}

// Each runs ask for every zone, Parallel at once, each within timeout, and returns the results in
// the order of the zones' names. It returns when every zone has answered or failed.
func Each[T any](ctx context.Context, z *Zones, zones []string, timeout time.Duration,
	ask func(ctx context.Context, zone string) (T, error)) []Result[T] {
	names := slices.Sorted(slices.Values(zones))
	out := make([]Result[T], len(names))
	var g errgroup.Group
	g.SetLimit(Parallel)
	for i, name := range names {
		out[i].Zone = name
		switch {
		case z.Call == nil:
			e := &Unreachable{Zone: name, Reason: "this control plane has no way to ask it"}
			out[i].Err = e.problem(http.StatusBadGateway)
			continue
		case z.Offline != nil && z.Offline(name):
			e := &Unreachable{Zone: name, Reason: "it is offline"}
			out[i].Err = e.problem(http.StatusBadGateway)
			continue
		}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			out[i].Value, out[i].Err = ask(ctx, name)
			return nil
		})
	}
	_ = g.Wait() // failures are results
	return out
}

// Call asks one zone within ctx; it is what a function given to [Each] uses.
func Call(ctx context.Context, z *Zones, zone, method string, req, resp proto.Message) error {
	body, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	raw, err := z.Call(ctx, zone, method, body)
	if err != nil {
		p := problem.FromGRPC(err)
		if p.Status == http.StatusBadGateway || p.Status == http.StatusGatewayTimeout {
			u := &Unreachable{Zone: zone, Reason: p.Detail}
			p.Detail, p.Cause = u.Error(), u
		}
		return p
	}
	return proto.Unmarshal(raw, resp)
}

// All asks every zone the same and returns the answers in the order of the zones' names.
func All[Resp any, M interface {
	*Resp
	proto.Message
}](ctx context.Context, z *Zones, zones []string, timeout time.Duration, method string,
	req proto.Message) []Result[M] {
	return Each(ctx, z, zones, timeout, func(ctx context.Context, zone string) (M, error) {
		resp := M(new(Resp))
		return resp, Call(ctx, z, zone, method, req, resp)
	})
}

// One asks one zone, also one that is Offline by what is known here: it may have just come back.
func One(ctx context.Context, z *Zones, zone string, timeout time.Duration, method string,
	req, resp proto.Message) error {
	known := &Zones{Call: z.Call}
	ask := func(ctx context.Context, zone string) (proto.Message, error) {
		return resp, Call(ctx, known, zone, method, req, resp)
	}
	return Each(ctx, known, []string{zone}, timeout, ask)[0].Err
}
