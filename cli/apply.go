package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/validate"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

type applyOptions struct {
	clientOptions
	files   []string
	mesh    string
	wait    bool
	dryRun  bool
	force   bool
	timeout time.Duration
}

func newApply() *cobra.Command {
	o := &applyOptions{}
	cmd := &cobra.Command{
		Use:   "apply -f FILE|FOLDER|URL|-",
		Short: "Create or change resources, and report how far the change has been delivered",
		Long: `Create or change every resource of the given files.

All documents are read and checked first: if one is invalid, nothing is sent. They are then written in an
order in which each finds what it needs (a Mesh before its policies). With --wait the command returns when
every affected online proxy has acknowledged the change, in every zone; otherwise it lists the proxies that
have not and the reasons, and ends with exit code 1.

A route or a load balancing policy that would leave requests without any instance, where they have one
today, needs --force.`,
		Example: `  meridian apply -f policies/                # every .yaml, .yml and .json of a folder
  meridian apply -f route.yaml --wait        # until the last proxy has acknowledged it
  meridian apply -f https://example.com/mesh.yaml -f timeouts.yaml
  cat route.yaml | meridian apply -f - --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringSliceVarP(&o.files, "file", "f", nil,
		"file, folder, URL, or - for standard input; may be repeated")
	f.StringVarP(&o.mesh, "mesh", "m", "", "mesh of documents without one (default "+mesh.DefaultMesh+")")
	f.BoolVar(&o.wait, "wait", false, "return when every affected online proxy has acknowledged the change")
	f.BoolVar(&o.dryRun, "dry-run", false, "check everything and write nothing")
	f.BoolVar(&o.force, "force", false,
		"write even what would leave a route or a destination without an instance, or change more "+
			"proxies than the control plane's guard allows")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "with --wait: how long to wait")
	o.flags(cmd)
	return cmd
}

func (o *applyOptions) run(cmd *cobra.Command) error {
	if len(o.files) == 0 {
		return errors.New("nothing to apply; specify -f FILE, -f FOLDER, -f URL or -f -")
	}
	docs, err := o.read(cmd)
	if err != nil {
		return err
	}
	c, done, err := o.connect(cmd)
	if err != nil {
		return err
	}
	defer done()
	force := o.force
	if !force {
		if force, err = o.guard(cmd, c, docs); err != nil {
			return err
		}
	}
	var revision uint64
	var answered time.Time
	for i, d := range docs {
		ctx, cancel := o.call(cmd)
		res, err := c.Put(ctx, d.Resource, client.PutOptions{DryRun: o.dryRun, Force: force})
		cancel()
		if err != nil {
			if i > 0 && !o.dryRun {
				return fmt.Errorf("%s: %w\n%d of %d documents were applied before it and remain",
					title(d.Resource.Key), err, i, len(docs))
			}
			return fmt.Errorf("%s: %w", title(d.Resource.Key), err)
		}
		answered = time.Now()
		for _, w := range res.Warnings {
			if !slices.Contains(d.Warnings, w) {
				_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s: %s\n", title(d.Resource.Key), w)
			}
		}
		if res.Changed {
			revision = max(revision, res.Revision)
		}
		say(cmd, "%s %s\n", title(d.Resource.Key), outcome(res, o.dryRun, d.DerivedName))
	}
	if !o.wait || o.dryRun {
		return nil
	}
	if revision == 0 {
		// Nothing changed now, but an earlier change may not be delivered yet.
		ctx, cancel := o.call(cmd)
		s, err := c.Status(ctx)
		cancel()
		if err != nil {
			return err
		}
		revision = s.GetRevision()
	}
	return waitFor(cmd, c, revision, o.timeout, answered)
}

// guard asks whether the documents together need --force; it says whether that is answered, so that the
// single writes need not ask again. What is wrong with a document, the write itself reports; a question
// without an answer is a warning and does not stop the write.
func (o *applyOptions) guard(
	cmd *cobra.Command,
	c *client.Client,
	docs []codec.Document,
) (asked bool, err error) {
	if !slices.ContainsFunc(docs, func(d codec.Document) bool {
		info, ok := mesh.Lookup(d.Resource.Key.Kind)
		return ok && (info.Policy != nil || info.Kind == mesh.KindDataplane || destination.Is(info.Kind))
	}) {
		return false, nil
	}
	ctx, cancel := o.call(cmd)
	defer cancel()
	resp, err := c.Diff(ctx, resourcesOf(docs), client.DiffOptions{Guard: true})
	var failed *client.Error
	switch {
	case errors.As(err, &failed) &&
		slices.Contains([]codes.Code{codes.Internal, codes.DeadlineExceeded}, failed.Code):
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(),
			"Warning: the effect on proxies could not be computed: %v\n", err)
		return true, nil
	case err != nil:
		return false, nil
	}
	for _, w := range resp.GetWarnings() {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(),
			"Warning: the effect on proxies was not computed everywhere: %s\n", w)
	}
	if len(resp.GetGuards()) == 0 {
		return true, nil
	}
	if o.dryRun {
		for _, g := range resp.GetGuards() {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "Warning: this would need --force: %s\n", g)
		}
		return true, nil
	}
	return false, fmt.Errorf(
		"nothing was applied:\n  * %s\nIf this is intended, add --force; `meridian diff` "+
			"with the same files shows everything that would change",
		strings.Join(resp.GetGuards(), "\n  * "),
	)
}

func resourcesOf(docs []codec.Document) []*mesh.Resource {
	out := make([]*mesh.Resource, len(docs))
	for i, d := range docs {
		out[i] = d.Resource
	}
	return out
}

func outcome(res client.PutResult, dryRun, derived bool) string {
	what := "unchanged"
	switch {
	case res.Created:
		what = "created"
	case res.Changed:
		what = "configured"
	}
	name := ""
	if derived {
		name = ", name derived from the document"
	}
	if dryRun {
		return what + " (dry run" + name + ")"
	}
	return fmt.Sprintf("%s (revision %d%s)", what, res.Revision, name)
}

// waitFor reports delivery, and is an error if it is not complete.
func waitFor(cmd *cobra.Command, c *client.Client, revision uint64, timeout time.Duration,
	answered time.Time) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout+10*time.Second)
	defer cancel()
	resp, err := c.Wait(ctx, revision, timeout)
	if err != nil {
		return err
	}
	printDelivery(cmd, resp)
	if !resp.GetComplete() {
		if slices.ContainsFunc(resp.GetZones(),
			func(z *adminv1.ZoneDelivery) bool { return len(z.GetRejections()) > 0 }) {
			return fmt.Errorf("revision %d was rejected; the proxies keep their former configuration",
				revision)
		}
		return fmt.Errorf("revision %d was not acknowledged by every affected proxy after %s", revision,
			took(resp.GetTook().AsDuration()))
	}
	say(cmd, "revision %d: acknowledged by every affected proxy, %s after the control plane's response\n",
		revision, took(time.Since(answered)))
	return nil
}

func printDelivery(cmd *cobra.Command, resp *adminv1.WaitRevisionResponse) {
	for _, z := range resp.GetZones() {
		name := z.GetZone()
		if name == "" {
			name = "this control plane"
		}
		switch {
		case z.GetComplete() && len(z.GetRejections()) == 0:
			say(cmd, "  %s: acknowledged by every affected online proxy\n", name)
		default:
			text := z.GetReason()
			if text == "" && z.GetPendingCount() > 0 {
				text = fmt.Sprintf("%d proxies have not acknowledged it yet", z.GetPendingCount())
			}
			if text == "" && len(z.GetRejections()) > 0 {
				text = fmt.Sprintf("%d rejections", len(z.GetRejections()))
			}
			say(cmd, "  %s: %s\n", name, text)
			for _, p := range z.GetPending() {
				say(cmd, "    waiting for %s\n", p)
			}
			for _, r := range z.GetRejections() {
				say(cmd, "    %s rejected %s: %s\n", rejectedBy(r), r.GetResource(), r.GetReason())
			}
		}
	}
}

// read decodes and checks every document of every input; its error holds everything that is wrong.
func (o *applyOptions) read(cmd *cobra.Command) ([]codec.Document, error) {
	var docs []codec.Document
	var errs []error
	first := map[mesh.Key]string{}
	for _, name := range o.files {
		inputs, err := readInput(cmd, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, in := range inputs {
			decoded, err := codec.Decode(in.data)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", in.name, explain(err)))
				continue
			}
			for _, d := range decoded {
				if !d.MeshGiven && o.mesh != "" && d.Resource.Key.Mesh != "" {
					d.Resource.Key.Mesh = o.mesh
				}
				place := fmt.Sprintf("%s, document %d", in.name, d.Index+1)
				if other, again := first[d.Resource.Key]; again {
					errs = append(
						errs,
						fmt.Errorf("%s: %s is in %s already: which of the two is meant?", place,
							title(d.Resource.Key), other),
					)
					continue
				}
				first[d.Resource.Key] = place
				warnings, err := validate.Resource(d.Resource)
				if err != nil {
					errs = append(errs,
						fmt.Errorf("%s: document %d, %s: %w", in.name, d.Index+1, title(d.Resource.Key),
							explain(err)))
					continue
				}
				d.Warnings = append(slices.Clone(d.Warnings), warnings...)
				for _, w := range d.Warnings {
					_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s: %s: %s\n", in.name,
						title(d.Resource.Key), w)
				}
				docs = append(docs, d)
			}
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("nothing was applied:\n%w", errors.Join(errs...))
	}
	if len(docs) == 0 {
		return nil, errors.New("nothing to apply: the input has no document")
	}
	rank := map[mesh.Kind]int{}
	for i, info := range mesh.Kinds {
		rank[info.Kind] = i
	}
	slices.SortStableFunc(docs, func(a, b codec.Document) int {
		return rank[a.Resource.Key.Kind] - rank[b.Resource.Key.Kind]
	})
	return docs, nil
}

// explain puts each violation on a line of its own.
func explain(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, explain(e))
		}
		return errors.Join(out...)
	}
	var v *mesh.ValidationError
	if !errors.As(err, &v) {
		return err
	}
	var b strings.Builder
	b.WriteString("the document is not valid")
	if doc := (*codec.DocumentError)(nil); errors.As(err, &doc) && doc.Index > 0 {
		b.Reset()
		fmt.Fprintf(&b, "document %d is not valid", doc.Index+1)
	}
	for _, violation := range v.Violations {
		b.WriteString("\n  * ")
		if violation.Field != "" {
			b.WriteString(violation.Field + ": ")
		}
		b.WriteString(violation.Reason)
	}
	return errors.New(b.String())
}

type input struct {
	name string
	data []byte
}

func readInput(cmd *cobra.Command, name string) ([]input, error) {
	switch {
	case name == "-":
		data, err := io.ReadAll(cmd.InOrStdin())
		return []input{{"standard input", data}}, err
	case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"):
		data, err := fetch(cmd.Context(), name)
		return []input{{name, data}}, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		data, err := os.ReadFile(name)
		return []input{{name, data}}, err
	}
	entries, err := os.ReadDir(name) // sorted
	if err != nil {
		return nil, err
	}
	var out []input
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		path := filepath.Join(name, e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		out = append(out, input{path, data})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: this folder has no .yaml, .yml or .json file", name)
	}
	return out, nil
}

// maxDocument bounds what a URL may answer, bytes.
const maxDocument = 32 << 20

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("%s is larger than %d bytes", url, maxDocument)
	}
	return data, err
}
