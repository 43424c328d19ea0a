package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/api/client"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

func newAudit() *cobra.Command {
	o := &clientOptions{}
	var output string
	var since time.Duration
	var limit int
	req := &adminv1.ListAuditRequest{}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who did what at the control plane, or was refused",
		Long: `Show the audit of the control plane, newest first: every write, token, read of a secret, dump
and refusal, with the caller, the address that it called from and the revision of the resource before and
after. For administrators. Each control plane has its own: ask a zone for what was done at the zone.`,
		Example: `  meridian audit --since 1h
  meridian audit --kind meshtimeout --name slow
  meridian audit --who alice --limit 0 -o json | jq '.entries[] | select(.refused)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case output != "table" && output != "json":
				return fmt.Errorf("-o %q: must be table or json", output)
			case limit < 0:
				return fmt.Errorf("--limit %d: must be 0, for all, or more", limit)
			case since < 0:
				return fmt.Errorf("--since %s: must be a time back from now, such as 1h", since)
			}
			if req.Kind != "" && !strings.HasSuffix(strings.ToLower(req.Kind), "token") {
				info, err := kindOf(req.Kind)
				if err != nil {
					return fmt.Errorf("--kind: %w", err)
				}
				req.Kind = string(info.Kind)
			}
			if since > 0 {
				req.Since = timestamppb.New(time.Now().Add(-since))
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			got, err := readAudit(ctx, c, req, limit)
			if err != nil {
				return err
			}
			if output == "json" {
				return printMessage(cmd, got) // what GET /audit answers
			}
			return printAudit(cmd, got)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&since, "since", 0, "how far back, such as 1h; 0 is everything that is kept")
	f.StringVar(&req.Who, "who", "", "name of the caller")
	f.StringVar(&req.Kind, "kind", "", "kind of the resource, or DataplaneToken, ZoneToken, UserToken")
	f.StringVar(&req.Name, "name", "", "name of the resource")
	f.IntVar(&limit, "limit", 100, "maximum number of rows; 0 is all")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	o.flags(cmd)
	return cmd
}

// auditPage is how many rows are read at once.
const auditPage = 1000

// readAudit follows the pages up to limit rows; 0 is all. Its Next says where there are more.
func readAudit(ctx context.Context, c *client.Client, req *adminv1.ListAuditRequest,
	limit int) (*adminv1.ListAuditResponse, error) {
	out := &adminv1.ListAuditResponse{}
	for {
		req.Size = auditPage
		if limit > 0 {
			req.Size = uint32(min(auditPage, limit-len(out.Entries)))
		}
		page, err := c.Audit(ctx, req)
		if err != nil {
			return nil, err
		}
		out.Entries, out.Next = append(out.Entries, page.GetEntries()...), page.GetNext()
		if out.Next == 0 || limit > 0 && len(out.Entries) >= limit {
			return out, nil
		}
		req.Below = out.Next
	}
}

func printAudit(cmd *cobra.Command, got *adminv1.ListAuditResponse) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "TIME\tWHO\tFROM\tACTION\tRESOURCE\tREVISION\tRESULT")
	for _, e := range got.GetEntries() {
		result := "done"
		switch {
		case e.GetRefused() != "":
			result = "refused: " + strings.Join(strings.Fields(e.GetRefused()), " ")
		case e.GetWhat() != "":
			result += ": " + e.GetWhat()
		}
		if n := e.GetUnrecorded(); n > 0 {
			result += fmt.Sprintf(" (and %d before it)", n)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			e.GetTime().AsTime().Local().Format(time.DateTime), e.GetWho(), orDash(e.GetFrom()),
			e.GetAction(), orDash(auditResource(e)), auditRevisions(e), result)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if got.GetNext() > 0 {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "there are older rows: raise --limit\n")
	}
	return nil
}

// auditResource is what a row is about: kind and name with the mesh and the zone, or what the call was.
func auditResource(e *adminv1.AuditEntry) string {
	if e.GetKind() == "" {
		return e.GetWhat()
	}
	s := e.GetKind()
	if name := strings.Trim(e.GetMesh()+"/"+e.GetName(), "/"); name != "" {
		s += " " + name
	}
	if e.GetZone() != "" && e.GetZone() != e.GetName() {
		s += " of zone " + e.GetZone()
	}
	return s
}

// auditRevisions are those of the resource before and after.
func auditRevisions(e *adminv1.AuditEntry) string {
	switch {
	case e.GetBefore() == 0 && e.GetAfter() == 0:
		return "-"
	case e.GetBefore() == e.GetAfter():
		return fmt.Sprint(e.GetAfter())
	case e.GetBefore() == 0:
		return fmt.Sprintf("new, %d", e.GetAfter())
	}
	return fmt.Sprintf("%d to %d", e.GetBefore(), e.GetAfter())
}
