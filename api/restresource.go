package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/internal/adminjson"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// item is one resource's path.
type item struct {
	collection
	name string
}

func (i item) key() mesh.Key { return mesh.Key{Kind: i.info.Kind, Mesh: i.mesh, Name: i.name} }

func (i item) get(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	key := i.key()
	key.Zone = q.Get("zone")
	res, err := i.api.get(r.Context(), key, q.Has("zone"), 0)
	if err != nil {
		return err
	}
	if i.overview {
		raw, err := i.api.overviewItem(r.Context(), res)
		if err != nil {
			return err
		}
		return answer(w, r, http.StatusOK, raw)
	}
	var raw []byte
	switch format := q.Get("format"); format {
	case "", "universal":
		raw, err = codec.EncodeJSON(res)
	case "k8s", "kubernetes":
		raw, err = kubernetesJSON(res)
	default:
		return badQuery("format", "is "+strconv.Quote(format)+", want universal or kubernetes")
	}
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(res.Revision))
	return answer(w, r, http.StatusOK, raw)
}

func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

// condition reads If-Match and If-None-Match: nil is none, 0 means that the resource must not
// exist. exists says that any revision will do as long as there is one.
func condition(r *http.Request) (revision *uint64, exists bool, err error) {
	if none := r.Header.Get("If-None-Match"); none != "" {
		if none != "*" {
			return nil, false,
				problem(http.StatusBadRequest, "Bad Request",
					"the header If-None-Match is %q, want * (it must not exist)", none)
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
		return nil, false, problem(http.StatusBadRequest, "Bad Request",
			"the header If-Match is %q, want the ETag of a GET, such as \"12\"", match)
	}
	return &n, false, nil
}

func (i item) put(w http.ResponseWriter, r *http.Request) (err error) {
	handed := false // to the core, which audits
	defer func() {
		if err != nil && !handed {
			c, _ := callerOf(r.Context())
			i.api.audit(c, "put", i.key(), false, 0, false, err)
		}
	}()
	// Rights and place come before the body, so that a refusal says nothing about what is there.
	if _, err := i.api.authorize(r.Context(), verbWrite, i.info); err != nil {
		return err
	}
	if _, err := i.api.place(i.info); err != nil {
		return err
	}
	q := r.URL.Query()
	dryRun, err := boolQuery(q, "dryRun")
	if err != nil {
		return err
	}
	wait, err := waitQuery(q)
	if err != nil {
		return err
	}
	rev, exists, err := condition(r)
	if err != nil {
		return err
	}
	data, err := body(r)
	if err != nil {
		return err
	}
	doc, err := codec.DecodeJSON(i.info, data)
	var bad *mesh.ValidationError
	switch {
	case errors.As(err, &bad):
		return invalid(titlePut, bad.Violations)
	case err != nil:
		return problem(http.StatusBadRequest, "Bad Request", "the body cannot be read: %v", err)
	}
	if exists {
		key := i.key()
		if key.Zone, err = i.api.place(i.info); err != nil {
			return err
		}
		old, err := i.api.get(r.Context(), key, true, 0)
		if err != nil {
			p := i.api.asProblem(err, titlePut)
			if p.Status == http.StatusNotFound {
				return problem(http.StatusPreconditionFailed, titlePut,
					"the resource does not exist, but If-Match: * demands that it does")
			}
			return p
		}
		rev = &old.Revision
	}
	handed = true
	got, err := i.api.put(r.Context(), put{
		resource:    doc.Resource,
		path:        i.key(),
		meshMissing: !doc.MeshGiven,
		warnings:    doc.Warnings,
		ifRevision:  rev,
		dryRun:      dryRun,
	})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if got.created && !dryRun {
		status = http.StatusCreated
	}
	out := writeAnswer{Warnings: got.warnings}
	if dryRun {
		out.DryRun = &dryRunAnswer{Created: got.created, Changed: got.changed}
	} else {
		w.Header().Set("ETag", etag(got.resource.Revision))
		if out.Delivery, err = i.api.delivery(r.Context(), got.revision, wait); err != nil {
			return err
		}
	}
	w.Header().Set("X-Meridian-Revision", strconv.FormatUint(got.revision, 10))
	return answerValue(w, r, status, out)
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

func (i item) delete(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	dryRun, err := boolQuery(q, "dryRun")
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
	key := i.key()
	key.Zone = q.Get("zone")
	got, err := i.api.remove(r.Context(), remove{
		key:        key,
		zoneGiven:  q.Has("zone"),
		ifRevision: rev,
		dryRun:     dryRun,
	})
	if err != nil {
		return err
	}
	var out writeAnswer
	if dryRun {
		out.DryRun = &dryRunAnswer{Changed: true}
	} else if out.Delivery, err = i.api.delivery(r.Context(), got, wait); err != nil {
		return err
	}
	w.Header().Set("X-Meridian-Revision", strconv.FormatUint(got, 10))
	return answerValue(w, r, http.StatusOK, out)
}

// waitQuery reads ?wait=30s; 0 is no wait.
func waitQuery(q url.Values) (time.Duration, error) {
	text := q.Get("wait")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > maxWait {
		return 0, badQuery("wait", "is "+strconv.Quote(text)+", want a duration such as 30s, at most 10m")
	}
	return d, nil
}

func (a *API) delivery(ctx context.Context, revision uint64, wait time.Duration) (json.RawMessage, error) {
	if wait == 0 {
		return nil, nil
	}
	resp, err := a.waitFor(ctx, revision, wait)
	if err != nil {
		// The write has happened; a wait that cannot be had must not look like a failed write.
		resp = &adminv1.WaitRevisionResponse{Zones: []*adminv1.ZoneDelivery{{Reason: a.asProblem(err,
			titlePut).Detail}}}
	}
	return adminjson.Marshal(resp)
}

// tokenRequest is the body of POST /tokens/*.
type tokenRequest struct {
	Mesh     string              `json:"mesh"`
	Name     string              `json:"name"`
	Tags     map[string][]string `json:"tags"`
	Type     string              `json:"type"`
	Workload string              `json:"workload"`
	Zone     string              `json:"zone"`
	Scope    []string            `json:"scope"`
	Groups   []string            `json:"groups"`
	ValidFor *string             `json:"validFor"`
}
