package rest

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// audit is GET /audit: a page, newest first. next of the answer is the below of the next page.
func (h *Handler) audit(w http.ResponseWriter, r *http.Request, _ params) error {
	q := r.URL.Query()
	req := &adminv1.ListAuditRequest{
		Who:  q.Get("who"),
		Kind: q.Get("kind"),
		Name: q.Get("name"),
	}
	if q.Has("since") {
		since, err := time.Parse(time.RFC3339, q.Get("since"))
		if err != nil {
			return badQuery("since", "is "+strconv.Quote(q.Get("since"))+
				", must be a time such as 2026-01-31T12:00:00Z")
		}
		req.Since = timestamppb.New(since)
	}
	var err error
	if req.Below, err = numberQuery(q, "below", 63); err != nil {
		return err
	}
	size, err := numberQuery(q, "size", 31)
	if err != nil {
		return err
	}
	req.Size = uint32(size)
	resp, err := h.core.ListAudit(r.Context(), req)
	return answerMessage(w, r, resp, err)
}

// numberQuery reads a query key that is a number from 0 of at most so many bits; absent is 0.
func numberQuery(q url.Values, key string, bits int) (uint64, error) {
	if !q.Has(key) {
		return 0, nil
	}
	n, err := strconv.ParseUint(q.Get(key), 10, bits)
	if err != nil {
		return 0, badQuery(key, "is "+strconv.Quote(q.Get(key))+", must be a number from 0")
	}
	return n, nil
}
