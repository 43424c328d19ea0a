package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// stepJoin starts every workload and both ingresses, and waits until global knows the services.
func stepJoin(ctx context.Context, s *Stack, r *Report) error {
	var starts []error
	started := 0
	for _, zone := range zoneNames {
		starts = append(starts, s.startIngress(zone))
	}
	for _, w := range s.workloads {
		if !w.Later {
			starts = append(starts, s.startWorkload(w))
			started++
		}
	}
	if err := errors.Join(starts...); err != nil {
		return err
	}
	if _, err := s.put(ctx, s.zones[usEast], "ticket-booking.yaml"); err != nil {
		return err
	}
	want := map[string]uint32{usEast: 6, euWest: 4} // with the ingress
	r.await(ctx, 20*time.Second,
		fmt.Sprintf("%d sidecars and 2 ingresses come up with tokens alone, and global sees them", started),
		func(ctx context.Context) (bool, string) {
			for _, w := range s.workloads {
				if w.sidecar != nil {
					if err := w.sidecar.Err(); err != nil {
						return false, err.Error()
					}
				}
			}
			st, err := s.global.client.Status(ctx)
			if err != nil {
				return false, err.Error()
			}
			good := true
			var seen []string
			for _, z := range st.GetZones() {
				good = good && z.GetProxies().GetOnline() == want[z.GetName()]
				seen = append(seen,
					fmt.Sprintf("%s %s with %d proxies online", z.GetName(), codec.EnumName(z.GetState()),
						z.GetProxies().GetOnline()))
			}
			return good && len(st.GetZones()) == len(zoneNames), strings.Join(seen, ", ")
		})
	expect := map[string]string{"us-east/booking-gateway": "1/1", "us-east/ticket-booking-v1": "1/1",
		"us-east/ticket-booking-v2": "1/1",
		"us-east/ticket-booking":    "2/2", "us-east/flight-search": "2/2", "eu-west/flight-search": "2/2",
		"eu-west/booking-gateway": "1/1"}
	r.await(ctx, 15*time.Second,
		"at global: 7 MeshServices with zone and counts, each with a VIP and NAME.svc.kongair.mesh",
		func(ctx context.Context) (bool, string) {
			page, err := s.global.client.List(ctx, client.ListOptions{
				Kind: mesh.KindMeshService,
				Mesh: mesh.DefaultMesh,
			})
			if err != nil {
				return false, err.Error()
			}
			var seen []string
			good := 0
			for _, svc := range page.Resources {
				st := mesh.Status[*meshv1.MeshServiceStatus](svc)
				name := svc.Key.Zone + "/" + svc.Key.Name
				counts := fmt.Sprintf("%d/%d", st.GetDataplaneProxies().GetHealthy(),
					st.GetDataplaneProxies().GetTotal())
				host := slices.ContainsFunc(st.GetAddresses(), func(a *meshv1.HostnameAddress) bool {
					return a.GetHostname() == svc.DisplayName()+".svc.kongair.mesh"
				})
				vip := "no VIP"
				if len(st.GetVips()) > 0 {
					vip = st.GetVips()[0].GetIp()
				}
				if counts == expect[name] && host && vip != "no VIP" {
					good++
				}
				seen = append(seen, fmt.Sprintf("%s %s %s", name, counts, vip))
			}
			return good == len(expect) && len(page.Resources) == len(expect), strings.Join(seen, ", ")
		})
	return nil
}

// stepTrust shows that the way in is mTLS, and closed.
func stepTrust(ctx context.Context, s *Stack, r *Report) error {
	gateway, flights := s.workload(usEast, "booking-gateway"), s.workload(usEast, "flight-search-1")
	v1 := s.workload(usEast, "ticket-booking-v1")
	client := newClient()
	// An Envoy that was just started may still be loading its certificates.
	r.await(ctx, 10*time.Second,
		"a plain-text call to a sidecar's inbound port is accepted and cut, not answered",
		func(ctx context.Context) (bool, string) {
			plain := get(ctx, client, v1.url(inboundPort, "/"))
			return plain.status == 0 && plain.err != nil && !errors.Is(plain.err, syscall.ECONNREFUSED),
				describe(plain)
		})
	r.await(ctx, 10*time.Second, "the sidecar presents spiffe://default/ticket-booking-v1",
		func(ctx context.Context) (bool, string) {
			uris, err := serverURIs(ctx, fmt.Sprintf("%s:%d", v1.Address, inboundPort))
			return slices.Contains(uris, "spiffe://default/ticket-booking-v1"),
				oneLine(fmt.Sprint(uris, " ", errText(err)))
		})
	r.await(ctx, 10*time.Second, "without a MeshTrafficPermission every call is denied (403)",
		func(ctx context.Context) (bool, string) {
			a, b := get(ctx, client, gateway.url(toTicketBooking, "/")),
				get(ctx, client, flights.url(toTicketBooking, "/"))
			return a.status == http.StatusForbidden && b.status == http.StatusForbidden,
				fmt.Sprintf("booking-gateway: %s, flight-search: %s", describe(a), describe(b))
		})
	if _, err := s.apply(ctx, r, "allow-booking-gateway.yaml"); err != nil {
		return err
	}
	// A kept connection obeys the rules it was accepted under until Envoy has drained it, so the
	// very next request may not be let in yet.
	r.await(ctx, time.Second, "once it is with every proxy, booking-gateway is let in within a second",
		func(ctx context.Context) (bool, string) {
			a := get(ctx, client, gateway.url(toTicketBooking, "/"))
			return !a.failed(), describe(a) + " from " + a.answer.Instance
		})
	b := get(ctx, client, flights.url(toTicketBooking, "/"))
	r.Check("and no other caller: flight-search is still denied", b.status == http.StatusForbidden, "%s",
		describe(b))
	return nil
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// serverURIs are the URI names in the certificate that a TLS server presents.
func serverURIs(ctx context.Context, address string) ([]string, error) {
	var uris []string
	d := tls.Dialer{Config: &tls.Config{
		// The certificate is what is looked at here; nothing is sent.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, u := range cs.PeerCertificates[0].URIs {
				uris = append(uris, u.String())
			}
			return nil
		},
	}}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	if len(uris) > 0 {
		err = nil // it presented one and then asked for ours
	}
	return uris, err
}

// stepCanary moves traffic between two versions.
func stepCanary(ctx context.Context, s *Stack, r *Report) error {
	gateway := s.workload(usEast, "booking-gateway")
	url := gateway.url(toTicketBooking, "/")

	file, err := s.document("canary-90-10.yaml")
	if err != nil {
		return err
	}
	stdout, stderr, code := s.cli(ctx, s.global, "apply", "-f", file, "--wait")
	r.Check("`meridian apply --wait` at global says when every proxy has it",
		code == 0 && strings.Contains(stdout, usEast) && strings.Contains(stdout, euWest),
		"exit code %d: %s", code, oneLine(stdout+stderr))
	share := func(expect string, low, high float64) {
		results := many(ctx, url, 2000, 16)
		n, text := failures(results)
		t := tally(results, byService)
		v2 := 100 * float64(t["ticket-booking-v2"]) / float64(max(1, len(results)))
		r.Check(expect, n == 0 && v2 >= low && v2 <= high, "%.1f %% to v2 (%s); %s", v2, tallyText(t), text)
	}
	share("of 2,000 requests 10 % ± 3 go to v2, none fails", 7, 13)
	if _, err := s.apply(ctx, r, "canary-50-50.yaml"); err != nil {
		return err
	}
	share("of 2,000 requests 50 % ± 5 go to v2, none fails", 45, 55)
	if _, err := s.apply(ctx, r, "canary-header.yaml"); err != nil {
		return err
	}
	client := newClient()
	with, without := map[string]int{}, map[string]int{}
	for range 50 {
		with[get(ctx, client, url, "x-canary", "yes").answer.Service]++
		without[get(ctx, client, url).answer.Service]++
	}
	r.Check("with the header x-canary: yes all of 50 go to v2, without it all to v1",
		with["ticket-booking-v2"] == 50 && without["ticket-booking-v1"] == 50,
		"with: %s; without: %s", tallyText(with), tallyText(without))

	load := startLoad(ctx, url, 8, 400)
	var flipErr error
	for i := range 20 {
		if _, flipErr = s.apply(ctx, r,
			[]string{"canary-90-10.yaml", "canary-50-50.yaml"}[i%2]); flipErr != nil {
			break
		}
		pause(ctx, 100*time.Millisecond)
	}
	results := load.stop()
	n, text := failures(results)
	r.Check("no request fails while the route flips 20 times under load",
		n == 0 && len(results) > 500 && flipErr == nil, "%s %s", text, errText(flipErr))
	return nil
}

// many sends n requests over several connections and waits for all.
func many(ctx context.Context, url string, n, workers int) []result {
	results := make([]result, n)
	client := newClient()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				results[i] = get(ctx, client, url)
			}
		})
	}
	wg.Wait()
	return results
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// stepTimeout cuts a slow handler in both zones.
func stepTimeout(ctx context.Context, s *Stack, r *Report) error {
	caller := newClient()
	for _, policy := range []struct {
		file  string
		limit time.Duration
	}{{"timeout-1000ms.yaml", time.Second}, {"timeout-600ms.yaml", 600 * time.Millisecond}} {
		if _, err := s.apply(ctx, r, policy.file); err != nil {
			return err
		}
		for _, zone := range zoneNames {
			res := get(ctx, caller, s.workload(zone, "booking-gateway").url(toFlightSearch, "/slow?d=5s"))
			took := res.ended.Sub(res.began)
			r.Check(fmt.Sprintf("in %s a handler of 5 s is cut with 504 at %s", zone, policy.limit),
				res.status == http.StatusGatewayTimeout && took > policy.limit-50*time.Millisecond &&
					took < policy.limit+250*time.Millisecond,
				"%s after %s", describe(res), short(took))
		}
	}
	// Later steps ask for nothing slow; the policy goes, so that it is not in their way.
	_, err := s.global.client.Delete(ctx, mesh.Key{
		Kind: mesh.KindMeshTimeout,
		Mesh: mesh.DefaultMesh,
		Name: "slow",
	}, client.DeleteOptions{})
	return err
}
