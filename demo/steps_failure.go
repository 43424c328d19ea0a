package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// stepFailover kills one zone's instances in every way and watches the caller.
func stepFailover(ctx context.Context, s *Stack, r *Report) error {
	if _, err := s.apply(ctx, r, "global-flight-search.yaml"); err != nil {
		return err
	}
	url := s.workload(usEast, "booking-gateway").url(toGlobalFlights, "/")
	near := []*workload{s.workload(usEast, "flight-search-1"), s.workload(usEast, "flight-search-2")}
	r.await(ctx, 5*time.Second, "global-flight-search answers", func(ctx context.Context) (bool, string) {
		res := get(ctx, newClient(), url)
		return !res.failed(), describe(res)
	})
	home := tally(many(ctx, url, 200, 8), byZone)
	r.Check("200 calls from us-east are answered by us-east alone", home[usEast] == 200, "%s",
		tallyText(home))

	load := startLoad(ctx, url, 8, 200)
	defer load.stop()
	for _, way := range []struct {
		name          string
		apps, sidecar bool
		newInstance   bool
	}{{"the applications alone", true, false, false}, {"the sidecars alone", false, true, false},
		{"both", true, true, true}} {
		killed := time.Now()
		for _, w := range near {
			if way.apps {
				w.app.Kill()
			}
			if way.sidecar {
				w.sidecar.Kill()
			}
		}
		remote, seen, _ := eventually(ctx, 5*time.Second, lastFrom(load, killed, euWest))
		pause(ctx, 1500*time.Millisecond)
		after := load.since(killed)
		late, last := failedAfter(after, killed.Add(time.Second))
		n, text := failures(after)
		r.Check(fmt.Sprintf("kill -9 of %s in us-east: answered from eu-west, no failed request "+
			"later than 1 s "+
			"after the kill", way.name),
			remote && late == 0, "%s; %s; %d failures later than 1 s%s", seen, text, late, lastText(n, last))
		if way.newInstance {
			if err := s.newInstanceTakes(ctx, r, load, s.workload(euWest, "flight-search-3")); err != nil {
				return err
			}
		}
		back := time.Now()
		for _, w := range near {
			if err := s.startWorkload(w); err != nil {
				return err
			}
		}
		home, seen, took := eventually(ctx, 20*time.Second, lastFrom(load, back, usEast))
		pause(ctx, 500*time.Millisecond)
		n, text = failures(load.since(back))
		r.Check("they return: traffic comes home, nothing fails", home && n == 0, "%s after %s; %s", seen,
			short(took), text)
	}
	return nil
}

func lastText(n int, last time.Duration) string {
	if n == 0 || last == 0 {
		return ""
	}
	return fmt.Sprintf(", the last %s after that", short(last))
}

// lastFrom says that the last answers all came from one zone.
func lastFrom(l *Load, after time.Time, zone string) func(context.Context) (bool, string) {
	return func(context.Context) (bool, string) {
		results := l.since(after)
		if len(results) < 20 {
			return false, "too few answers"
		}
		t := tally(results[len(results)-20:], byZone)
		return t[zone] == 20, "the last 20 answers: " + tallyText(t)
	}
}

// newInstanceTakes starts one more instance and measures from its readiness to its first answer.
func (s *Stack) newInstanceTakes(ctx context.Context, r *Report, load *Load, w *workload) error {
	began := time.Now()
	if w.sidecar == nil {
		if err := s.startSidecar(w); err != nil {
			return err
		}
	}
	if err := s.startApp(w); err != nil {
		return err
	}
	// Ready: the application answers, and its sidecar's inbound port accepts.
	ready, seen, _ := eventually(ctx, 10*time.Second, func(ctx context.Context) (bool, string) {
		d := net.Dialer{Timeout: time.Second}
		for _, port := range []int{appPort, inboundPort} {
			conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(w.Address, fmt.Sprint(port)))
			if err != nil {
				return false, err.Error()
			}
			_ = conn.Close()
		}
		return true, "ready"
	})
	at := time.Now()
	if !ready {
		r.Check("a new instance "+w.id()+" becomes ready", false, "%s", seen)
		return nil
	}
	took, _, waited := eventually(ctx, 5*time.Second, func(context.Context) (bool, string) {
		return tally(load.since(began), byInstance)[w.id()] > 0, ""
	})
	r.Check("a new instance "+w.id()+" takes traffic within 1 s of being ready", took && waited < time.Second,
		"ready %s after its start, first answer %s later", short(at.Sub(began)), short(waited))
	return nil
}

// stepIndependence kills the control planes under load.
func stepIndependence(ctx context.Context, s *Stack, r *Report) error {
	url := s.workload(usEast, "booking-gateway").url(toGlobalFlights, "/")
	load := startLoad(ctx, url, 8, 200)
	defer load.stop()
	began := time.Now()

	s.global.process.Kill()
	r.await(ctx, 10*time.Second, "global is killed with -9; the zones report it as unavailable",
		func(ctx context.Context) (bool, string) {
			st, err := s.zones[usEast].client.Status(ctx)
			if err != nil {
				return false, err.Error()
			}
			return st.GetGlobal().GetState() == adminv1.ConnectionState_CONNECTION_STATE_OFFLINE,
				"us-east says: global is " + codec.EnumName(st.GetGlobal().GetState())
		})
	if err := s.newInstanceTakes(ctx, r, load, s.workload(usEast, "flight-search-3")); err != nil {
		return err
	}

	zone := s.zones[usEast]
	zone.process.Kill()
	pause(ctx, 1500*time.Millisecond)
	restart := time.Now()
	if err := s.startControlPlane(ctx, zone); err != nil {
		return err
	}
	r.await(ctx, 15*time.Second,
		"us-east's control plane restarts after kill -9 while global is down: its 7 proxies are served again",
		func(ctx context.Context) (bool, string) {
			st, err := zone.client.Status(ctx)
			if err != nil {
				return false, err.Error()
			}
			p := st.GetProxies()
			return p.GetOnline() == 7 && p.GetAtRevision() == 7,
				fmt.Sprintf("%d of %d online, %d have the latest, %s after the restart", p.GetOnline(),
					p.GetTotal(), p.GetAtRevision(), short(time.Since(restart)))
		})
	// Served, not only connected: an instance that goes must reach the caller's sidecar through the
	// new control plane.
	gone := s.workload(usEast, "flight-search-3")
	gone.app.Kill()
	pause(ctx, 500*time.Millisecond)
	mark := time.Now()
	pause(ctx, 500*time.Millisecond)
	t := tally(load.since(mark), byInstance)
	r.Check("and it steers: an instance that dies now gets no more calls", t[gone.id()] == 0 && len(t) > 0,
		"%s", tallyText(t))

	if err := s.globalReturns(ctx, r); err != nil {
		return err
	}
	n, text := failures(load.since(began))
	r.Check("no request failed throughout", n == 0, "%s", text)
	return s.startApp(gone)
}

// globalReturns restarts global and changes a policy as soon as it answers.
func (s *Stack) globalReturns(ctx context.Context, r *Report) error {
	if err := s.global.process.Start(); err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(s.dataDir("global"), "admin.token"))
	if err != nil {
		return err
	}
	// The very first answer, as a user's client would see it.
	answered, seen, _ := eventually(ctx, 20*time.Second, func(ctx context.Context) (bool, string) {
		if err := s.global.process.Err(); err != nil {
			return false, err.Error()
		}
		code, _, err := s.fetch(ctx, "http://"+net.JoinHostPort(s.global.address, "5681")+"/status",
			strings.TrimSpace(string(token)))
		return err == nil && code == 200, errText(err)
	})
	if !answered {
		return errors.New("global did not come back: " + seen)
	}
	first := time.Now()
	var revision uint64
	// The gRPC client may still be pausing after failed dials; ask until the write is taken.
	ok, seen, _ := eventually(ctx, 10*time.Second, func(ctx context.Context) (bool, string) {
		var err error
		revision, err = s.put(ctx, s.global, "canary-header.yaml")
		return err == nil, errText(err)
	})
	if !ok {
		return errors.New("global took no write: " + seen)
	}
	written := time.Now()
	resp, err := s.global.client.Wait(ctx, revision, 10*time.Second)
	if err != nil {
		return err
	}
	// Complete for zones that are there: both must be.
	took := time.Since(first)
	r.delivered("canary-header.yaml", time.Since(written))
	r.Check("global returns; a policy changed at once is with every proxy of both zones within 1 s "+
		"of global's "+
		"first answer",
		resp.GetComplete() && len(resp.GetZones()) == len(zoneNames) && took < time.Second,
		"complete %v in %d zones, %s; %s", resp.GetComplete(), len(resp.GetZones()), short(took),
		undelivered(resp))
	r.await(ctx, 5*time.Second, "the zones resumed from their revision, without a full resend",
		func(ctx context.Context) (bool, string) {
			st, err := s.global.client.Status(ctx)
			if err != nil {
				return false, err.Error()
			}
			good := len(st.GetZones()) == len(zoneNames)
			var texts []string
			for _, z := range st.GetZones() {
				good = good && z.GetResumed() && z.GetState() == adminv1.ZoneState_ZONE_STATE_ONLINE &&
					z.GetDigestsEqual()
				texts = append(texts,
					fmt.Sprintf("%s resumed=%v, %d bytes of config, digests equal=%v", z.GetName(),
						z.GetResumed(), z.GetConfigBytes(), z.GetDigestsEqual()))
			}
			return good, strings.Join(texts, "; ")
		})
	return nil
}

// stepBadPolicy tries to do harm.
func stepBadPolicy(ctx context.Context, s *Stack, r *Report) error {
	file, err := s.document("bad-field.yaml")
	if err != nil {
		return err
	}
	_, stderr, code := s.cli(ctx, s.global, "apply", "-f", file)
	r.Check("an unknown field is refused with its path and what was meant",
		code == 1 && strings.Contains(stderr, "requestTimout") && strings.Contains(stderr, "requestTimeout"),
		"exit code %d: %s", code, oneLine(stderr))

	gateway := s.workload(usEast, "booking-gateway")
	load := startLoad(ctx, gateway.url(toTicketBooking, "/"), 4, 100)
	other := startLoad(ctx, s.workload(euWest, "booking-gateway").url(toFlightSearch, "/"), 4, 100)
	if _, err := s.put(ctx, s.global, "bad-for-envoy.yaml"); err != nil {
		load.stop()
		other.stop()
		return err
	}
	key := mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: mesh.DefaultMesh, Name: "no-host"}
	r.await(ctx, 10*time.Second,
		"a policy that Envoy rejects is in `meridian status`, with the proxy, the policy and Envoy's reason",
		func(ctx context.Context) (bool, string) {
			stdout, stderr, _ := s.cli(ctx, s.global, "status")
			i := strings.Index(stdout, "rejected by proxies")
			if i < 0 {
				return false, "no rejection in the status " + oneLine(stderr)
			}
			return strings.Contains(stdout[i:], "no-host") && strings.Contains(stdout[i:], "booking-gateway"),
				oneLine(stdout[i:])
		})
	r.await(ctx, 10*time.Second, "and on the resource, per zone", func(ctx context.Context) (bool, string) {
		res, err := s.global.client.Get(ctx, key)
		if err != nil {
			return false, err.Error()
		}
		rejections := mesh.Status[*meshv1.DeliveryStatus](res).GetRejections()
		for _, r := range rejections {
			if r.GetZone() == usEast && r.GetProxy() != nil && r.GetReason() != "" {
				return true, fmt.Sprintf("%s: rejected by %s: %s", r.GetZone(),
					mesh.KeyFromProto(r.GetProxy()), r.GetReason())
			}
		}
		return false, fmt.Sprintf("%d rejections in its status", len(rejections))
	})
	if _, err := s.global.client.Delete(ctx, key, client.DeleteOptions{}); err != nil {
		return err
	}
	r.await(ctx, 10*time.Second, "once it is deleted the rejection is gone",
		func(ctx context.Context) (bool, string) {
			st, err := s.global.client.Status(ctx)
			if err != nil {
				return false, err.Error()
			}
			return len(st.GetRejections()) == 0, refusalText(st)
		})
	n, text := failures(append(load.stop(), other.stop()...))
	r.Check("all proxies keep serving meanwhile", n == 0, "%s", text)
	return nil
}

func refusalText(st *adminv1.GetStatusResponse) string {
	if len(st.GetRejections()) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, such as %s: %s", len(st.GetRejections()),
		st.GetRejections()[0].GetProxy().GetName(),
		st.GetRejections()[0].GetReason())
}
