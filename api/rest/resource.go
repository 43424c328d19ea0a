package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// key of an item; the path does not say its zone.
func (c collection) key(p params) mesh.Key {
	return mesh.Key{Kind: c.info.Kind, Mesh: p.mesh, Name: p.name}
}

func (c collection) get(w http.ResponseWriter, r *http.Request, p params) error {
	q := r.URL.Query()
	res, err := c.core.Get(r.Context(), c.zoned(r, p), q.Has("zone"), 0)
	if err != nil {
		return err
	}
	if c.overview {
		o, err := c.overviewItem(r.Context(), res)
		if err != nil {
			return err
		}
		return answerObject(w, r, http.StatusOK, o)
	}
	switch format := q.Get("format"); format {
	case "", "universal":
		o, err := codec.Encode(res)
		if err != nil {
			return err
		}
		w.Header().Set("ETag", etag(res.Revision))
		return answerObject(w, r, http.StatusOK, o)
	case "k8s", "kubernetes":
		raw, err := kubernetesJSON(res)
		if err != nil {
			return err
		}
		w.Header().Set("ETag", etag(res.Revision))
		return answer(w, r, http.StatusOK, raw)
	default:
		return badQuery("format", "is "+strconv.Quote(format)+", must be universal or kubernetes")
	}
}

func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

// condition reads If-Match and If-None-Match: nil is none, 0 means that the resource must not
// exist. exists says that any revision will do as long as there is one.
func condition(r *http.Request) (revision *uint64, exists bool, err error) {
	if none := r.Header.Get("If-None-Match"); none != "" {
		if none != "*" {
			return nil, false,
				problem.New(http.StatusBadRequest, problem.TitleBadRequest,
					"the header If-None-Match is %q, must be * (the resource must not exist)", none)
		}
		zero := uint64(0)
		return &zero, false, nil
	}
	match := strings.TrimSpace(r.Header.Get("If-Match"))
	switch match {
	case "":
		return nil, false, nil
	case "*":
		return nil, true, nil
	}
	n, err := strconv.ParseUint(strings.Trim(strings.TrimPrefix(match, "W/"), `"`), 10, 64)
	if err != nil {
		return nil, false, problem.New(http.StatusBadRequest, problem.TitleBadRequest,
			"the header If-Match is %q, must be the ETag of a GET, such as \"12\"", match)
	}
	return &n, false, nil
}

func (c collection) put(w http.ResponseWriter, r *http.Request, p params) error {
	// Rights and ownership come before the body, so that a denial says nothing about what is there.
	zone, err := c.core.MayWrite(r.Context(), c.info, c.key(p))
	if err != nil {
		return err
	}
	in, wait, err := c.readPut(r, p, zone)
	if err != nil {
		c.core.RejectedWrite(r.Context(), c.key(p), err)
		return err
	}
	got, err := c.core.Put(r.Context(), in)
	if err != nil {
		return err
	}

	status := http.StatusOK
	if got.Created && !in.DryRun {
		status = http.StatusCreated
	}
	out := writeAnswer{Warnings: got.Warnings}
	for _, text := range got.Warnings {
		// RFC 9111 section 5.5 and RFC 7234: 299 is a persistent warning, "-" an agent without a name.
		w.Header().Add("Warning", "299 - "+strconv.Quote(text))
	}
	if in.DryRun {
		out.DryRun = &dryRunAnswer{Created: got.Created, Changed: got.Changed}
	} else {
		w.Header().Set("ETag", etag(got.Resource.Revision))
		if out.Delivery, err = c.delivery(r.Context(), got.Revision, wait); err != nil {
			return err
		}
	}
	w.Header().Set("X-Meridian-Revision", strconv.FormatUint(got.Revision, 10))
	return answerValue(w, r, status, out)
}

// readPut reads a write from its request; zone is the resource's.
func (c collection) readPut(r *http.Request, p params, zone string) (in api.PutRequest, wait time.Duration,
	err error) {
	q := r.URL.Query()
	if in.DryRun, err = boolQuery(q, "dryRun"); err != nil {
		return in, 0, err
	}
	if in.Force, err = boolQuery(q, "force"); err != nil {
		return in, 0, err
	}
	if wait, err = waitQuery(q); err != nil {
		return in, 0, err
	}
	revision, exists, err := condition(r)
	if err != nil {
		return in, 0, err
	}
	data, err := body(r)
	if err != nil {
		return in, 0, err
	}
	doc, err := codec.DecodeJSON(c.info, data)
	var invalid *mesh.ValidationError
	switch {
	case errors.As(err, &invalid):
		return in, 0, problem.Invalid(problem.TitlePut, invalid.Violations...)
	case err != nil:
		return in, 0, unreadable(err)
	}
	if exists {
		if revision, err = c.revisionOf(r.Context(), p, zone); err != nil {
			return in, 0, err
		}
	}
	in.Request = admission.Request{
		Resource:    doc.Resource,
		Path:        c.key(p),
		MeshMissing: !doc.MeshGiven,
		Warnings:    doc.Warnings,
		IfRevision:  revision,
	}
	return in, wait, nil
}

// revisionOf is the revision of an item that must exist, for If-Match: *.
func (c collection) revisionOf(ctx context.Context, p params, zone string) (*uint64, error) {
	key := c.key(p)
	key.Zone = zone
	old, err := c.core.Get(ctx, key, true, 0)
	switch {
	case problem.Is(err, http.StatusNotFound):
		return nil, problem.New(http.StatusPreconditionFailed, problem.TitlePut,
			"resource does not exist (If-Match: *)")
	case err != nil:
		return nil, err
	}
	return &old.Revision, nil
}

// writeAnswer is the body of an answer to a write.
type writeAnswer struct {
	Warnings []string        `json:"warnings,omitempty"`
	DryRun   *dryRunAnswer   `json:"dryRun,omitempty"`
	Delivery json.RawMessage `json:"delivery,omitempty"`
}

type dryRunAnswer struct {
	Created bool `json:"created"`
	Changed bool `json:"changed"`
}

func (c collection) delete(w http.ResponseWriter, r *http.Request, p params) error {
	q := r.URL.Query()
	dryRun, err := boolQuery(q, "dryRun")
	if err != nil {
		return err
	}
	force, err := boolQuery(q, "force")
	if err != nil {
		return err
	}
	wait, err := waitQuery(q)
	if err != nil {
		return err
	}
	rev, _, err := condition(r)
	if err != nil {
		return err
	}
	got, err := c.core.Delete(r.Context(), api.DeleteRequest{
		Deletion: admission.Deletion{
			Key:        c.zoned(r, p),
			ZoneGiven:  q.Has("zone"),
			IfRevision: rev,
		},
		DryRun: dryRun,
		Force:  force,
	})
	if err != nil {
		return err
	}
	var out writeAnswer
	if dryRun {
		out.DryRun = &dryRunAnswer{Changed: true}
	} else if out.Delivery, err = c.delivery(r.Context(), got, wait); err != nil {
		return err
	}
	w.Header().Set("X-Meridian-Revision", strconv.FormatUint(got, 10))
	return answerValue(w, r, http.StatusOK, out)
}

// waitQuery reads ?wait=30s; 0 is not to wait.
func waitQuery(q url.Values) (time.Duration, error) {
	text := q.Get("wait")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > api.MaxWait {
		return 0, badQuery("wait", "is "+strconv.Quote(text)+", must be a duration such as 30s, at most 10m")
	}
	return d, nil
}

// delivery waits until a write is delivered, if the caller asked for that.
func (h *Handler) delivery(ctx context.Context, revision uint64,
	wait time.Duration) (json.RawMessage, error) {
	if wait == 0 {
		return nil, nil
	}
	resp, err := h.core.Wait(ctx, revision, wait)
	if err != nil {
		// The write has happened; a wait that cannot be had must not look like a failed write.
		reason := h.edge.Problem(err, problem.TitlePut).Detail
		resp = &adminv1.WaitRevisionResponse{Zones: []*adminv1.ZoneDelivery{{Reason: reason}}}
	}
	return codec.MarshalAnswer(resp)
}
