package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Retries without a policy, and what stands for fields that a policy leaves out. Retries go where
// the request has not been yet, unless the policy says where they go.
const (
	connectAttempts = 5
	retryCount      = 1
	retryBase       = 25 * time.Millisecond
	retrySelections = 5
	retryPriorities = 2
)

// ingressListener is what a zone ingress does with connections that it passes on.
var ingressListener = ir.ListenerPolicy{ConnectAttempts: connectAttempts}

var (
	// Conditions of HTTP without a condition in retryOn. A retry after a reset before the request was
	// sent repeats nothing, and a connection that has just died looks like that.
	httpConditions = []string{"gateway-error", "connect-failure", "refused-stream", "reset-before-request"}
	grpcConditions = []string{"cancelled", "connect-failure", "gateway-error", "refused-stream", "reset",
		"resource-exhausted",
		"unavailable", "reset-before-request"}
	httpDefault, grpcDefault = defaultRetry(httpConditions), defaultRetry(grpcConditions)
)

func defaultRetry(on []string) ir.Shared[ir.Retry] {
	r := ir.Retry{
		On:    on,
		Count: 5,
		Base:  retryBase,
		Max:   10 * retryBase,
	}
	elsewhere(&r)
	return ir.Share(r)
}

// httpRetryOn are the items of retryOn that are conditions.
var httpRetryOn = map[string]string{"5xx": "5xx", "GatewayError": "gateway-error", "Reset": "reset",
	"Retriable4xx":   "retriable-4xx",
	"ConnectFailure": "connect-failure", "EnvoyRatelimited": "envoy-ratelimited",
	"RefusedStream":           "refused-stream",
	"Http3PostConnectFailure": "http3-post-connect-failure"}

// grpcRetryOn: Envoy spells cancelled with two l.
var grpcRetryOn = map[string]string{"Canceled": "cancelled", "DeadlineExceeded": "deadline-exceeded",
	"Internal":          "internal",
	"ResourceExhausted": "resource-exhausted", "Unavailable": "unavailable"}

// meshRetryTo reads the section of the port's protocol: http also for http2. A port whose
// section is absent keeps the default.
func meshRetryTo(e policy.Effective, p Port, out *OutboundConfig) {
	conf, _ := e.Conf.(*meshv1.MeshRetry_Conf)
	switch {
	case p.Protocol == ir.GRPC:
		out.Route.Retry = grpcDefault
		if conf.GetGrpc() != nil {
			out.Route.Retry = grpcRetry(conf.GetGrpc())
		}
	case p.Protocol.IsHTTP():
		out.Route.Retry = httpDefault
		if conf.GetHttp() != nil {
			out.Route.Retry = httpRetry(conf.GetHttp())
		}
	default:
		out.Listener.ConnectAttempts = connectAttempts
		if t := conf.GetTcp(); t != nil && t.MaxConnectAttempt != nil && p.Protocol == ir.TCP {
			out.Listener.ConnectAttempts = min(t.GetMaxConnectAttempt(), maxTries)
		}
	}
}

func httpRetry(c *meshv1.MeshRetry_Http) ir.Shared[ir.Retry] {
	r := ir.Retry{Count: min(orUint(c.NumRetries, retryCount), maxTries), PerTry: or(c.GetPerTryTimeout(), 0)}
	if r.Count == 0 {
		return ir.Shared[ir.Retry]{}
	}
	pauses(&r, c.GetBackOff(), c.GetRateLimitedBackOff())
	for _, item := range c.GetRetryOn() {
		if on, ok := httpRetryOn[item]; ok {
			r.On = append(r.On, on)
		} else if method, ok := strings.CutPrefix(item, "HttpMethod"); ok {
			r.Requests = append(r.Requests, ir.ValueMatch{Name: ":method", Value: strings.ToUpper(method)})
		} else if code, err := strconv.ParseUint(item, 10, 32); err == nil {
			r.Codes = append(r.Codes, uint32(code))
		}
	}
	if len(r.On) == 0 { // codes and methods alone are no conditions
		r.On = slices.Clone(httpConditions)
	}
	if len(r.Codes) > 0 {
		r.On = append(r.On, "retriable-status-codes")
	}
	for _, h := range c.GetRetriableRequestHeaders() {
		r.Requests = append(r.Requests, headerMatch(h))
	}
	for _, h := range c.GetRetriableResponseHeaders() {
		r.Answers = append(r.Answers, headerMatch(h))
	}
	if len(r.Answers) > 0 {
		r.On = append(r.On, "retriable-headers")
	}
	elsewhere(&r)
	if len(c.GetHostSelection()) > 0 {
		r.OtherHosts, r.OtherPriorities = false, 0
	}
	for _, s := range c.GetHostSelection() {
		switch s.GetPredicate() {
		case "OmitPreviousHosts":
			r.OtherHosts = true
		case "OmitPreviousPriorities":
			r.OtherPriorities = min(cmp.Or(s.GetUpdateFrequency(), retryPriorities), maxTries)
		case "OmitHostsWithTags":
			r.OmitTags = append(r.OmitTags, s.GetTags())
		}
	}
	if c.HostSelectionMaxAttempts != nil {
		r.Selections = int64(min(c.GetHostSelectionMaxAttempts(), maxSelections))
	}
	return ir.Share(r)
}

// meshRetryShownTags are the tags by which retries omit instances.
func meshRetryShownTags(e policy.Entry) []string {
	conf, _ := e.Conf.(*meshv1.MeshRetry_Conf)
	var out []string
	for _, s := range conf.GetHttp().GetHostSelection() {
		out = slices.AppendSeq(out, maps.Keys(s.GetTags()))
	}
	return out
}

func grpcRetry(c *meshv1.MeshRetry_Grpc) ir.Shared[ir.Retry] {
	r := ir.Retry{Count: min(orUint(c.NumRetries, retryCount), maxTries), PerTry: or(c.GetPerTryTimeout(), 0)}
	if r.Count == 0 {
		return ir.Shared[ir.Retry]{}
	}
	pauses(&r, c.GetBackOff(), c.GetRateLimitedBackOff())
	for _, item := range c.GetRetryOn() {
		r.On = append(r.On, grpcRetryOn[item])
	}
	if len(r.On) == 0 {
		r.On = grpcConditions
	}
	if r.PerTry > 0 && slices.Contains(r.On, "deadline-exceeded") {
		// A try whose time is up is one that Envoy itself resets, before it has a status.
		r.On = append(r.On, "reset")
	}
	elsewhere(&r)
	return ir.Share(r)
}

// elsewhere sends retries to instances, and in the end to a priority, that the request has not met.
func elsewhere(r *ir.Retry) {
	r.OtherHosts, r.OtherPriorities, r.Selections = true, retryPriorities, retrySelections
}

// pauses keeps what Envoy refuses out: a pause without length, and a longest one below the shortest.
func pauses(r *ir.Retry, b *meshv1.MeshRetry_BackOff, l *meshv1.MeshRetry_RateLimitedBackOff) {
	r.PerTry = max(r.PerTry, 0)
	r.Base = max(or(b.GetBaseInterval(), retryBase), time.Millisecond)
	r.Max = max(or(b.GetMaxInterval(), 10*r.Base), r.Base)
	for _, h := range l.GetResetHeaders() {
		r.Reset = append(r.Reset, ir.ResetHeader{Name: h.GetName(), Unix: h.GetFormat() == "UnixTimestamp"})
	}
	r.MaxReset = or(l.GetMaxInterval(), 0)
}

func meshRetryRequestEffects(r *ir.RoutePolicy, q Request) []Effect {
	e := Effect{Subject: "retry", Fields: []string{"http", "grpc"}}
	retry, ok := r.Retry.Get()
	switch {
	case !ok:
		e.Text = "a request that failed is not tried again"
	case len(retry.Requests) > 0 && !slices.ContainsFunc(retry.Requests, q.Fits):
		e.Text = fmt.Sprintf("requests such as this one (%s) are not tried again", q.Method)
	default:
		e.Text = retryText(retry)
	}
	return []Effect{e}
}

func retryText(r ir.Retry) string {
	on := slices.Clone(r.On)
	for _, c := range r.Codes {
		on = append(on, strconv.FormatUint(uint64(c), 10))
	}
	text := fmt.Sprintf("up to %d more tries after %s", r.Count, strings.Join(on, ", "))
	if r.PerTry > 0 {
		text += fmt.Sprintf(", %s for each", r.PerTry)
	}
	if r.Base > 0 {
		text += fmt.Sprintf(", pauses of %s growing to %s", r.Base, r.Max)
	}
	if r.OtherHosts {
		text += ", at instances that it has not tried"
	}
	return text
}

func meshRetryConnectionEffects(l *ir.ListenerPolicy) []Effect {
	if l.ConnectAttempts <= 1 {
		return nil
	}
	return []Effect{{
		Subject: "retry",
		Fields:  []string{"tcp"},
		Text:    fmt.Sprintf("up to %d instances are tried for a connection", l.ConnectAttempts),
	}}
}
