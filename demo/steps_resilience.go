package demo

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
)

// resilience is what a developer of services does: each step is a document, and what it does
// to traffic.
var resilience = []step{
	{"the airline comes up, and booking-gateway may call", stepMorning},
	{"canary: a new version of ticket-booking, a tenth, a half, all", stepShares},
	{"least request: the slow instance gets less", stepLeastRequest},
	{"rate limit: 100 requests a second, and 429 for the rest", stepRateLimit},
	{"health checks: an instance that is not well is left alone", stepHealthCheck},
	{"circuit breaker: five failures in a row, and it rests", stepBreaker},
	{"retries: half of the answers are errors, and no caller sees one", stepRetries},
	{"timeout: who is too late is not waited for", stepServiceTimeout},
	{"chaos: errors and delays on purpose, and taken back", stepChaos},
}

// behave tells an instance's application how to answer from now on; see [App].
func (s *Stack) behave(ctx context.Context, w *workload, query string) error {
	code, body, err := s.fetch(ctx, w.url(appPort, "/behave?"+query), "")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%d %s", code, body)
	}
	return err
}

// withdraw deletes a policy at global and waits until every proxy has heard.
func (s *Stack) withdraw(ctx context.Context, kind mesh.Kind, name string) error {
	revision, err := s.global.client.Delete(ctx, mesh.Key{
		Kind: kind,
		Mesh: mesh.DefaultMesh,
		Name: name,
	}, client.DeleteOptions{})
	if err != nil {
		return err
	}
	resp, err := s.global.client.Wait(ctx, revision, 10*time.Second)
	if err == nil && !resp.GetComplete() {
		err = fmt.Errorf("the end of %s %s has not reached every proxy after 10 s: %s", kind, name,
			undelivered(resp))
	}
	return err
}

// flightSearch is what this scenario's callers call: the url, and the two instances behind it.
func (s *Stack) flightSearch() (url string, first, second *workload) {
	return s.workload(usEast, "booking-gateway").url(toFlightSearch, "/"),
		s.workload(usEast, "flight-search-1"), s.workload(usEast, "flight-search-2")
}

func stepMorning(ctx context.Context, s *Stack, r *Report) error {
	if err := stepJoin(ctx, s, r); err != nil {
		return err
	}
	if _, err := s.apply(ctx, r, "allow-booking-gateway.yaml"); err != nil {
		return err
	}
	gateway := s.workload(usEast, "booking-gateway")
	client := newClient()
	for _, port := range []int{toTicketBooking, toFlightSearch} {
		r.await(ctx, 10*time.Second, fmt.Sprintf("booking-gateway gets answers at its port %d", port),
			func(ctx context.Context) (bool, string) {
				res := get(ctx, client, gateway.url(port, "/"))
				return !res.failed(), describe(res) + " from " + res.answer.Instance
			})
	}
	return nil
}

func stepShares(ctx context.Context, s *Stack, r *Report) error {
	url := s.workload(usEast, "booking-gateway").url(toTicketBooking, "/")
	load := startLoad(ctx, url, 4, 200)
	for _, c := range []struct {
		file      string
		low, high float64
	}{{"canary-90-10.yaml", 7, 13}, {"canary-50-50.yaml", 45, 55}, {"canary-100.yaml", 100, 100}} {
		if _, err := s.apply(ctx, r, c.file); err != nil {
			load.stop()
			return err
		}
		results := many(ctx, url, 2000, 16)
		n, text := failures(results)
		v2 := 100 * float64(tally(results, byService)["ticket-booking-v2"]) / float64(len(results))
		r.Check(fmt.Sprintf("of 2,000 requests %.0f to %.0f %% are answered by v2", c.low, c.high),
			n == 0 && v2 >= c.low && v2 <= c.high, "%.1f %%; %s", v2, text)
	}
	n, text := failures(load.stop())
	r.Check("nothing failed while the shares changed", n == 0, "%s", text)
	return nil
}

func stepLeastRequest(ctx context.Context, s *Stack, r *Report) error {
	url, slow, _ := s.flightSearch()
	if err := s.behave(ctx, slow, "delay=40ms"); err != nil {
		return err
	}
	share := func() (float64, string) {
		results := many(ctx, url, 600, 8)
		_, text := failures(results)
		return 100 * float64(tally(results, byInstance)[slow.id()]) / float64(len(results)), text
	}
	even, text := share()
	r.Check("round robin: half of the requests wait for the slow instance", even > 45 && even < 55,
		"%.0f %% went to %s; %s", even, slow.id(), text)
	if _, err := s.apply(ctx, r, "least-request.yaml"); err != nil {
		return err
	}
	less, text := share()
	r.Check("least request: less than a third do", less < 33, "%.0f %% went to %s; %s", less, slow.id(), text)
	if err := s.behave(ctx, slow, ""); err != nil {
		return err
	}
	return s.withdraw(ctx, mesh.KindMeshLoadBalancingStrategy, "flight-search")
}

func stepRateLimit(ctx context.Context, s *Stack, r *Report) error {
	url := s.workload(usEast, "booking-gateway").url(toTicketBooking, "/")
	if _, err := s.apply(ctx, r, "rate-limit.yaml"); err != nil {
		return err
	}
	client := newClient()
	// A connection that was open obeys the rules it was accepted under until Envoy has drained it.
	r.await(ctx, 5*time.Second, "within a second too many requests are refused, and the answer says why",
		func(ctx context.Context) (bool, string) {
			for range 150 {
				if res := get(ctx, client, url); res.status == http.StatusTooManyRequests {
					return res.header.Get("x-slow-down") == "100 per second",
						"429 with x-slow-down: " + res.header.Get("x-slow-down")
				}
			}
			return false, "no 429"
		})
	// After a second without requests the bucket is full; from then on tokens come back evenly.
	pause(ctx, 1100*time.Millisecond)
	results := many(ctx, url, 180, 8)
	codes := map[string]int{}
	var last time.Time
	for _, res := range results {
		codes[describe(res)]++
		if res.ended.After(last) {
			last = res.ended
		}
	}
	took := last.Sub(results[0].began)
	refilled := int(took.Seconds()*100) + 1
	r.Check("of 180 requests at once 100 are answered, and one more for each 10 ms that they take; the "+
		"others get 429",
		codes["200"]+codes["429"] == 180 && codes["200"] >= 100 && codes["200"] <= 100+refilled, "%s in %s",
		tallyText(codes), short(took))
	return s.withdraw(ctx, mesh.KindMeshRateLimit, "ticket-booking")
}

func stepHealthCheck(ctx context.Context, s *Stack, r *Report) error {
	url, ill, well := s.flightSearch()
	if _, err := s.apply(ctx, r, "health-check.yaml"); err != nil {
		return err
	}
	load := startLoad(ctx, url, 4, 200)
	defer load.stop()
	if err := s.behave(ctx, ill, "health=503"); err != nil {
		return err
	}
	r.await(ctx, 5*time.Second, ill.id()+" says on /health that it is not well, and is left alone",
		lastBy(load, time.Now(), well.id()))
	if err := s.behave(ctx, ill, ""); err != nil {
		return err
	}
	back := time.Now()
	r.await(ctx, 5*time.Second, "it is well again, and used again", func(context.Context) (bool, string) {
		t := tally(load.since(back), byInstance)
		return t[ill.id()] > 0, tallyText(t)
	})
	n, text := failures(load.stop())
	r.Check("no caller noticed", n == 0, "%s", text)
	return s.withdraw(ctx, mesh.KindMeshHealthCheck, "flight-search")
}

// lastBy says that the last answers after a time all came from one instance.
func lastBy(l *Load, after time.Time, instance string) func(context.Context) (bool, string) {
	return func(context.Context) (bool, string) {
		results := l.since(after)
		if len(results) < 40 {
			return false, "too few answers"
		}
		t := tally(results[len(results)-40:], byInstance)
		return t[instance] == 40, "the last 40 answers: " + tallyText(t)
	}
}

func stepBreaker(ctx context.Context, s *Stack, r *Report) error {
	url, bad, good := s.flightSearch()
	if _, err := s.apply(ctx, r, "breaker.yaml"); err != nil {
		return err
	}
	if err := s.behave(ctx, bad, "status=500"); err != nil {
		return err
	}
	load := startLoad(ctx, url, 4, 200)
	defer load.stop()
	began := time.Now()
	rested, seen, _ := eventually(ctx, 5*time.Second, lastBy(load, began, good.id()))
	n, text := failures(load.since(began))
	r.Check("after five failures in a row (and what was under way) "+bad.id()+
		" rests, though there are only two", rested && n >= 5 && n <= 5+8, "%s; %s", seen, text)
	if err := s.behave(ctx, bad, ""); err != nil {
		return err
	}
	well := time.Now()
	r.await(ctx, 10*time.Second, "it is well, and comes back by itself",
		func(context.Context) (bool, string) {
			t := tally(load.since(well), byInstance)
			return t[bad.id()] > 0, fmt.Sprintf("%s after %s", tallyText(t), short(time.Since(well)))
		})
	load.stop()
	return s.withdraw(ctx, mesh.KindMeshCircuitBreaker, "flight-search")
}

func stepRetries(ctx context.Context, s *Stack, r *Report) error {
	url, bad, _ := s.flightSearch()
	if err := s.behave(ctx, bad, "status=500"); err != nil {
		return err
	}
	n, text := failures(many(ctx, url, 400, 8))
	r.Check("one instance of two answers 500: about half of the requests fail", n > 150 && n < 250, "%s",
		text)
	if _, err := s.apply(ctx, r, "retries.yaml"); err != nil {
		return err
	}
	n, text = failures(many(ctx, url, 400, 8))
	r.Check("with retries none does: a second attempt goes to the other instance", n == 0, "%s", text)
	if err := s.behave(ctx, bad, ""); err != nil {
		return err
	}
	return s.withdraw(ctx, mesh.KindMeshRetry, "flight-search")
}

func stepServiceTimeout(ctx context.Context, s *Stack, r *Report) error {
	url, _, _ := s.flightSearch()
	if _, err := s.apply(ctx, r, "service-timeout.yaml"); err != nil {
		return err
	}
	client := newClient()
	res := get(ctx, client, strings.TrimSuffix(url, "/")+"/slow?d=3s")
	took := res.ended.Sub(res.began)
	r.Check("a handler of 3 s is cut with 504 after 400 ms",
		res.status == http.StatusGatewayTimeout && took > 350*time.Millisecond && took < 700*time.Millisecond,
		"%s after %s", describe(res), short(took))
	res = get(ctx, client, strings.TrimSuffix(url, "/")+"/slow?d=200ms")
	r.Check("one of 200 ms is not", !res.failed(), "%s after %s", describe(res),
		short(res.ended.Sub(res.began)))
	return s.withdraw(ctx, mesh.KindMeshTimeout, "flight-search")
}

func stepChaos(ctx context.Context, s *Stack, r *Report) error {
	url := s.workload(usEast, "booking-gateway").url(toTicketBooking, "/")
	if _, err := s.apply(ctx, r, "chaos.yaml"); err != nil {
		return err
	}
	r.await(ctx, 5*time.Second, "the first errors come", func(ctx context.Context) (bool, string) {
		n, text := failures(many(ctx, url, 32, 32))
		return n > 0, text
	})
	results := many(ctx, url, 1000, 32)
	failed, late := 0, 0
	for _, res := range results {
		switch took := res.ended.Sub(res.began); {
		case res.status == http.StatusInternalServerError:
			failed++
		case !res.failed() && took >= 140*time.Millisecond:
			late++
		}
	}
	r.Check("of 1,000 requests 20 % ± 4 answer 500, and of the others 50 % ± 6 take 140 ms or more",
		failed >= 160 && failed <= 240 && late > (1000-failed)*44/100 && late < (1000-failed)*56/100,
		"%d answer 500, %d of the others are late", failed, late)
	if err := s.withdraw(ctx, mesh.KindMeshFaultInjection, "ticket-booking"); err != nil {
		return err
	}
	r.await(ctx, time.Second, "the policy is deleted, and within a second the day is good again",
		func(ctx context.Context) (bool, string) {
			n, text := failures(many(ctx, url, 200, 16))
			return n == 0, text
		})
	return nil
}
