package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// The JSON of `meridian status`, the same as GET /status; design section 1 fixes its names.
type (
	statusJSON struct {
		Role           string        `json:"role"`
		Zone           string        `json:"zone,omitempty"`
		Instance       string        `json:"instance"`
		Version        string        `json:"version"`
		Revision       uint64        `json:"revision"`
		GlobalRevision uint64        `json:"globalRevision,omitempty"`
		Global         *globalJSON   `json:"global,omitempty"`
		Zones          []zoneJSON    `json:"zones,omitempty"`
		Proxies        *rollupJSON   `json:"proxies,omitempty"`
		Refusals       []refusalJSON `json:"refusals,omitempty"`
		Store          storeJSON     `json:"store"`
	}
	globalJSON struct {
		State       string `json:"state"`
		Reason      string `json:"reason,omitempty"`
		Address     string `json:"address"`
		ConfigBytes uint64 `json:"configBytes"`
		Resumed     bool   `json:"resumed"`
	}
	zoneJSON struct {
		Name         string     `json:"name"`
		State        string     `json:"state"`
		Instance     string     `json:"instance"`
		Version      string     `json:"version,omitempty"`
		Lag          lagJSON    `json:"lag"`
		DigestsEqual bool       `json:"digestsEqual"`
		Proxies      rollupJSON `json:"proxies"`
		Reason       string     `json:"reason,omitempty"`
		ConfigBytes  uint64     `json:"configBytes"`
		Resumed      bool       `json:"resumed"`
	}
	lagJSON struct {
		Revisions uint64  `json:"revisions"`
		Seconds   float64 `json:"seconds"`
	}
	rollupJSON struct {
		Total      uint32 `json:"total"`
		Online     uint32 `json:"online"`
		AtRevision uint32 `json:"atRevision"`
	}
	refusalJSON struct {
		Proxy    string `json:"proxy"`
		Resource string `json:"resource"`
		Cause    string `json:"cause,omitempty"`
		Reason   string `json:"reason"`
		Revision uint64 `json:"revision,omitempty"`
	}
	storeJSON struct {
		Type      string `json:"type"`
		Available bool   `json:"available"`
		Reason    string `json:"reason,omitempty"`
	}
)

func rollup(p *adminv1.ProxyRollup) rollupJSON {
	return rollupJSON{Total: p.GetTotal(), Online: p.GetOnline(), AtRevision: p.GetAtRevision()}
}

func toStatusJSON(s *adminv1.GetStatusResponse) statusJSON {
	out := statusJSON{Role: s.GetRole(), Zone: s.GetZone(), Instance: s.GetInstance(), Version: s.GetVersion(), Revision: s.GetRevision(),
		GlobalRevision: s.GetGlobalRevision(),
		Store:          storeJSON{Type: s.GetStore().GetType(), Available: s.GetStore().GetAvailable(), Reason: s.GetStore().GetReason()}}
	if g := s.GetGlobal(); g != nil {
		out.Global = &globalJSON{State: g.GetState(), Reason: g.GetReason(), Address: g.GetAddress(), ConfigBytes: g.GetConfigBytes(), Resumed: g.GetResumed()}
	}
	if s.GetProxies() != nil {
		r := rollup(s.GetProxies())
		out.Proxies = &r
	}
	for _, z := range s.GetZones() {
		out.Zones = append(out.Zones, zoneJSON{Name: z.GetName(), State: z.GetState(), Instance: z.GetInstance(), Version: z.GetVersion(),
			Lag: lagJSON{z.GetLag().GetRevisions(), z.GetLag().GetSeconds()}, DigestsEqual: z.GetDigestsEqual(), Proxies: rollup(z.GetProxies()),
			Reason: z.GetReason(), ConfigBytes: z.GetConfigBytes(), Resumed: z.GetResumed()})
	}
	for _, r := range s.GetRefusals() {
		out.Refusals = append(out.Refusals, refusalJSON{Proxy: r.GetProxy(), Resource: r.GetResource(), Cause: causeText(r), Reason: r.GetReason(), Revision: r.GetRevision()})
	}
	return out
}

func causeText(r *kdsv1.ProxyRefusal) string {
	k := r.GetCause()
	if k == nil {
		return ""
	}
	s := k.GetKind() + " "
	if k.GetMesh() != "" {
		s += k.GetMesh() + "/"
	}
	return s + k.GetName()
}

func newStatus() *cobra.Command {
	o := &clientOptions{}
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the control plane, its zones and how far the last change has got",
		Example: `  meridian status
  meridian status -o json | jq '.zones[] | select(.lag.revisions > 0)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("-o %q: want table or json", output)
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			resp, err := c.Status(ctx)
			if err != nil {
				return err
			}
			s := toStatusJSON(resp)
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				enc.SetEscapeHTML(false)
				return enc.Encode(s)
			}
			printStatus(cmd, s)
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	o.flags(cmd)
	return cmd
}

func printStatus(cmd *cobra.Command, s statusJSON) {
	switch {
	case s.Role == "global":
		say(cmd, "global, revision %d, instance %s, version %s\n", s.Revision, s.Instance, s.Version)
	default:
		say(cmd, "zone %s, revision %d, instance %s, version %s\n", s.Zone, s.Revision, s.Instance, s.Version)
	}
	if s.Store.Available {
		say(cmd, "store: %s\n", s.Store.Type)
	} else {
		say(cmd, "store: %s, AWAY: %s\n", s.Store.Type, s.Store.Reason)
	}
	if g := s.Global; g != nil {
		say(cmd, "global: %s at %s, applied revision %d", g.State, g.Address, s.GlobalRevision)
		if g.Reason != "" {
			say(cmd, " (%s)", g.Reason)
		}
		say(cmd, "\n")
	}
	if p := s.Proxies; p != nil {
		say(cmd, "proxies: %d of %d online, %d have the latest\n", p.Online, p.Total, p.AtRevision)
	}
	if s.Role == "global" {
		say(cmd, "\n")
		var rows [][]string
		for _, z := range s.Zones {
			digests := "equal"
			if !z.DigestsEqual {
				digests = "DIFFERENT"
			}
			rows = append(rows, []string{z.Name, z.State, fmt.Sprintf("%d rev, %.1f s", z.Lag.Revisions, z.Lag.Seconds), digests,
				fmt.Sprintf("%d/%d", z.Proxies.Online, z.Proxies.Total), fmt.Sprint(z.Proxies.AtRevision), orDash(z.Reason)})
		}
		if len(rows) == 0 {
			say(cmd, "no zone has joined yet\n")
		} else {
			table(cmd, []string{"ZONE", "STATE", "LAG", "DIGESTS", "ONLINE", "LATEST", "REASON"}, rows)
		}
	}
	if len(s.Refusals) > 0 {
		say(cmd, "\nrefused by proxies, which keep what they had:\n")
		for _, r := range s.Refusals {
			say(cmd, "  %s: %s\n    cause: %s\n    reason: %s\n", r.Proxy, r.Resource, orDash(r.Cause), r.Reason)
		}
	}
}
