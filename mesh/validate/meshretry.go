package validate

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshRetryRules(c *check, s *meshv1.MeshRetry) {
	for i, to := range s.GetTo() {
		path, conf := fmt.Sprintf("spec.to[%d].default", i), to.GetDefault()
		if conf.GetTcp() == nil && conf.GetHttp() == nil && conf.GetGrpc() == nil {
			c.add(path, "needs at least one of http, grpc and tcp")
		}
		if t := conf.GetTcp(); t != nil && t.MaxConnectAttempt == nil {
			c.add(path+".tcp", "needs maxConnectAttempt")
		}
		if h := conf.GetHttp(); h != nil {
			c.httpRetry(path+".http", h)
		}
		if g := conf.GetGrpc(); g != nil {
			at := path + ".grpc"
			if g.NumRetries == nil && g.GetPerTryTimeout() == nil && g.GetBackOff() == nil &&
				g.GetRateLimitedBackOff() == nil && len(g.GetRetryOn()) == 0 {
				c.add(at, "needs at least one of numRetries, perTryTimeout, backOff, rateLimitedBackOff "+
					"and retryOn")
			}
			c.notNegative(at+".perTryTimeout", g.GetPerTryTimeout())
			c.backOff(at, g.GetBackOff(), g.GetRateLimitedBackOff())
			c.perTry(at, g.GetPerTryTimeout(), g.GetRetryOn(), "DeadlineExceeded")
		}
	}
}

func (c *check) httpRetry(path string, h *meshv1.MeshRetry_Http) {
	if h.NumRetries == nil && h.GetPerTryTimeout() == nil && h.GetBackOff() == nil &&
		h.GetRateLimitedBackOff() == nil && len(h.GetRetryOn()) == 0 &&
		len(h.GetRetriableRequestHeaders()) == 0 && len(h.GetRetriableResponseHeaders()) == 0 &&
		len(h.GetHostSelection()) == 0 {
		c.add(path, "needs at least one of numRetries, perTryTimeout, backOff, rateLimitedBackOff, retryOn, "+
			"retriableRequestHeaders, retriableResponseHeaders and hostSelection")
	}
	c.notNegative(path+".perTryTimeout", h.GetPerTryTimeout())
	c.backOff(path, h.GetBackOff(), h.GetRateLimitedBackOff())
	if slices.ContainsFunc(h.GetRetryOn(), isHTTPCondition) { // otherwise the default conditions hold
		c.perTry(path, h.GetPerTryTimeout(), h.GetRetryOn(), "5xx", "GatewayError", "Reset")
	}
	for i, m := range h.GetRetriableRequestHeaders() {
		c.headerMatch(fmt.Sprintf("%s.retriableRequestHeaders[%d]", path, i), m)
	}
	for i, m := range h.GetRetriableResponseHeaders() {
		c.headerMatch(fmt.Sprintf("%s.retriableResponseHeaders[%d]", path, i), m)
	}
	priorities := false
	for i, s := range h.GetHostSelection() {
		at := fmt.Sprintf("%s.hostSelection[%d]", path, i)
		switch s.GetPredicate() {
		case "OmitHostsWithTags":
			if len(s.GetTags()) == 0 {
				c.add(at+".tags", "is required for OmitHostsWithTags")
			}
			c.tags(at+".tags", s.GetTags(), false)
		case "OmitPreviousPriorities":
			if priorities {
				c.add(at+".predicate", "OmitPreviousPriorities is given twice")
			}
			priorities = true
		}
	}
}

// isHTTPCondition tells conditions from methods and status codes, which only narrow or widen them.
func isHTTPCondition(item string) bool {
	return !strings.HasPrefix(item, "HttpMethod") && !mesh.IsStatusCode(item)
}

// perTry warns if the end of a try is none of the conditions: the request then ends with that try.
func (c *check) perTry(path string, d *durationpb.Duration, on []string, conditions ...string) {
	retried := len(on) == 0 ||
		slices.ContainsFunc(on, func(s string) bool { return slices.Contains(conditions, s) })
	if d.AsDuration() > 0 && !retried {
		c.warn(path+".perTryTimeout", "ends the request instead of trying again: retryOn has no %s",
			strings.Join(conditions, ", "))
	}
}

// backOff: the base must not be above the maximum, which Envoy would refuse.
func (c *check) backOff(path string, b *meshv1.MeshRetry_BackOff,
	limited *meshv1.MeshRetry_RateLimitedBackOff) {
	if b != nil {
		low, high := b.GetBaseInterval(), b.GetMaxInterval()
		if low == nil && high == nil {
			c.add(path+".backOff", "needs at least one of baseInterval and maxInterval")
		}
		c.positive(path+".backOff.baseInterval", low)
		c.positive(path+".backOff.maxInterval", high)
		if low != nil && high != nil && low.AsDuration() > high.AsDuration() {
			c.add(path+".backOff.maxInterval", "must not be shorter than baseInterval")
		}
	}
	c.positive(path+".rateLimitedBackOff.maxInterval", limited.GetMaxInterval())
	for i, h := range limited.GetResetHeaders() {
		c.headerName(fmt.Sprintf("%s.rateLimitedBackOff.resetHeaders[%d].name", path, i), h.GetName())
	}
}
