package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func newDebug() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "Inspect the configuration of proxies and the delivery of a change",
	}
	cmd.AddCommand(newDebugProxy(), newDebugChange())
	return cmd
}

func newDebugProxy() *cobra.Command {
	s := &selection{}
	var envoy, filter, output string
	var ingress, all bool
	cmd := &cobra.Command{
		Use:   "proxy NAME",
		Short: "Compare the configuration that a proxy has with the one it should have",
		Long: `Compare what a proxy has acknowledged with what it should have: for each resource whether it
was acknowledged, sent or rejected, the policies and destinations that it comes from, and the last change that
affected the proxy. With --envoy the response of its Envoy's admin interface is shown instead, through its
launcher. Works at the zone and through global.`,
		Example: `  meridian debug proxy web-1
  meridian debug proxy web-1 --all
  meridian debug proxy web-1 --envoy config_dump
  meridian debug proxy web-1 --envoy stats --filter 'upstream_rq_5xx$'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			question, known := codec.ParseEnumWord[adminv1.AdminQuestion](envoy)
			switch {
			case output != "text" && output != "json":
				return fmt.Errorf("-o %q: must be text or json", output)
			case !known:
				return fmt.Errorf("--envoy %q: must be one of %s", envoy,
					strings.Join(api.AdminQuestions, ", "))
			case filter != "" && envoy != "stats":
				return errors.New("--filter needs --envoy stats")
			}
			kind := mesh.KindDataplane
			if ingress {
				kind = mesh.KindZoneIngress
			}
			info, _ := mesh.Lookup(kind)
			c, done, err := s.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := s.call(cmd)
			defer cancel()
			key := s.key(info, args[0])
			if envoy != "" {
				body, err := c.ProxyAdmin(ctx, key, question, filter)
				if err != nil {
					return notFound(err, info, args[0], s)
				}
				say(cmd, "%s\n", body)
				return nil
			}
			got, err := c.DebugProxy(ctx, key)
			if err != nil {
				return notFound(err, info, args[0], s)
			}
			if output == "json" {
				return printMessage(cmd, got)
			}
			printProxy(cmd, got, all)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&envoy, "envoy", "",
		"show the response of Envoy's admin interface: "+strings.Join(api.AdminQuestions, ", "))
	f.StringVar(&filter, "filter", "", "with --envoy stats: a regular expression on names")
	f.BoolVar(&ingress, "ingress", false, "NAME is a ZoneIngress")
	f.BoolVar(&all, "all", false, "show resources that are in sync as well")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	s.flags(cmd)
	return cmd
}

func newDebugChange() *cobra.Command {
	o := &clientOptions{}
	var zone, output string
	var ofGlobal bool
	cmd := &cobra.Command{
		Use:   "change REVISION",
		Short: "Show which proxies a revision affects, and which have acknowledged or rejected it",
		Long: `Show the delivery of a change: which proxies it affects, how many have acknowledged
it, which have rejected it and why, and which are pending. Every control plane numbers its own changes:
REVISION is that of the control plane that is asked, as its "meridian apply" prints it. At global every zone
is asked. A zone remembers its last thousand changes since it started.`,
		Example: `  meridian debug change 4711                 # at a zone, or at global for every zone
  meridian debug change 815 --zone us-east   # at global: a revision of the zone
  meridian debug change 4711 --of-global     # at a zone: a revision of global`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || revision == 0 {
				return fmt.Errorf("%q is not a revision; it must be a number from 1, such as the one that "+
					"`meridian apply` prints", args[0])
			}
			switch {
			case output != "text" && output != "json":
				return fmt.Errorf("-o %q: must be text or json", output)
			case ofGlobal && zone != "":
				return errors.New("--of-global and --zone exclude each other: global asks every zone about " +
					"its own revisions")
			}
			c, done, err := o.connect(cmd)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := o.call(cmd)
			defer cancel()
			got, err := c.DebugChange(ctx, zone, revision, ofGlobal)
			if err != nil {
				return err
			}
			if output == "json" {
				return printMessage(cmd, got)
			}
			printChanges(cmd, got)
			return nil
		},
	}
	cmd.Flags().StringVar(&zone, "zone", "", "at global: REVISION is that of this zone")
	cmd.Flags().BoolVar(&ofGlobal, "of-global", false, "at a zone: REVISION is that of global")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	o.flags(cmd)
	return cmd
}

// short is the beginning of a version, enough to tell two apart.
func short(version string) string {
	if version == "" {
		return "nothing"
	}
	return version[:min(len(version), 8)]
}

// syncText is a status in words, such as "in sync".
func syncText(s adminv1.SyncStatus) string {
	words := strings.TrimPrefix(s.String(), "SYNC_STATUS_")
	return strings.ToLower(strings.ReplaceAll(words, "_", " "))
}

// settled says that nothing is to be done about a resource.
func settled(s adminv1.SyncStatus) bool {
	return s == adminv1.SyncStatus_SYNC_STATUS_IN_SYNC || s == adminv1.SyncStatus_SYNC_STATUS_NOT_SUBSCRIBED
}

// delivered sums a stream up in one line.
func delivered(s *adminv1.DebugStream) string {
	if s.GetWaitingForAdmission() {
		return s.GetClient() + ": connected, waiting until others have received their first configuration"
	}
	count := map[string]int{}
	for _, r := range s.GetResources() {
		count[syncText(r.GetStatus())]++
	}
	text := fmt.Sprintf("%s: revision %d computed, acknowledged up to %d; %d resources", s.GetClient(),
		s.GetComputed(), s.GetAnswered(), len(s.GetResources()))
	for _, state := range slices.Sorted(maps.Keys(count)) {
		text += fmt.Sprintf(", %d %s", count[state], state)
	}
	return text
}

func printProxy(cmd *cobra.Command, p *adminv1.DebugProxyResponse, all bool) {
	say(cmd, "%s\n", title(mesh.KeyFromProto(p.GetKey())))
	if len(p.GetStreams()) == 0 {
		say(cmd, "not connected to its zone's control plane\n")
	}
	for _, s := range p.GetStreams() {
		say(cmd, "\n%s\n", delivered(s))
		say(cmd, "  connected %s ago, from %s\n", age(s.GetSince().AsTime()), orDash(s.GetRemoteAddress()))
		switch w := s.GetLastChange(); {
		case w != nil:
			say(cmd, "  last affected by:\n")
			printChange(cmd, "    ", w)
		case !s.GetWaitingForAdmission():
			say(cmd, "  no change has affected it since it connected\n")
		}
		printRejections(cmd, "  ", s.GetRejections())
		for _, r := range s.GetResources() {
			if !all && settled(r.GetStatus()) {
				continue
			}
			say(cmd, "  %s %s: %s%s\n", codec.EnumWord(r.GetType()), r.GetName(), comparison(r),
				origins(r.GetCauses()))
		}
	}
}

// comparison is what a proxy has of a resource beside what it should have.
func comparison(r *adminv1.DebugResource) string {
	text := syncText(r.GetStatus())
	switch r.GetStatus() {
	case adminv1.SyncStatus_SYNC_STATUS_IN_SYNC:
		return text + ", " + short(r.GetAcked())
	case adminv1.SyncStatus_SYNC_STATUS_NOT_SUBSCRIBED:
		return text
	}
	return fmt.Sprintf("%s: has %s, should have %s", text, short(r.GetAcked()), short(r.GetDesired()))
}

func origins(list []*adminv1.DebugCause) string {
	var out []string
	for _, c := range list {
		out = append(out, fmt.Sprintf("%s %s (revision %d)", c.GetKey().GetKind(), c.GetKey().GetName(),
			c.GetRevision()))
	}
	if len(out) == 0 {
		return ""
	}
	return "; from " + strings.Join(out, ", ")
}

func printRejections(cmd *cobra.Command, indent string, list []*meshv1.Rejection) {
	for _, r := range list {
		var causes []string
		if r.GetCause() != nil {
			causes = append(causes, title(mesh.KeyFromProto(r.GetCause())))
		}
		for _, k := range r.GetOtherCauses() {
			causes = append(causes, title(mesh.KeyFromProto(k)))
		}
		from := ""
		if len(causes) > 0 {
			from = "; from " + strings.Join(causes, ", ")
		}
		if r.GetStage() == meshv1.Rejection_STAGE_TRANSLATION {
			say(cmd, "%s%s keeps its former configuration: the control plane cannot build %s: %s%s\n", indent,
				r.GetProxy().GetName(), r.GetResource(), r.GetReason(), from)
			continue
		}
		say(cmd, "%s%s rejected %s: %s%s\n", indent, r.GetProxy().GetName(), r.GetResource(), r.GetReason(),
			from)
	}
}

func keyNames(keys []*meshv1.Key, of uint32) string {
	var out []string
	for _, k := range keys {
		out = append(out, k.GetName())
	}
	if rest := int(of) - len(out); rest > 0 {
		out = append(out, fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(out, ", ")
}

// printChanges prints a change; one of global's zone by zone.
func printChanges(cmd *cobra.Command, c *adminv1.DebugChangeResponse) {
	if c.GetGlobalRevision() > 0 {
		say(cmd, "revision %d of global\n", c.GetGlobalRevision())
	}
	if len(c.GetZones()) == 0 && len(c.GetWarnings()) == 0 && c.GetZone() == "" {
		say(cmd, "  there is no zone\n")
	}
	list := c.GetZones()
	if c.GetZone() != "" {
		list = append(list, c)
	}
	for _, z := range list {
		switch {
		case c.GetGlobalRevision() == 0:
			printChange(cmd, "", z)
		case z.GetLast() == 0:
			say(cmd, "  zone %s: no change here\n", z.GetZone())
		default:
			printChange(cmd, "  ", z)
		}
	}
	for _, w := range c.GetWarnings() {
		say(cmd, "  %s\n", w)
	}
}

func printChange(cmd *cobra.Command, indent string, c *adminv1.DebugChangeResponse) {
	which := fmt.Sprintf("revision %d", c.GetLast())
	if c.GetFirst() < c.GetLast() {
		which = fmt.Sprintf("revisions %d to %d", c.GetFirst(), c.GetLast())
	}
	at := ""
	if c.GetCommitted() != nil {
		at = ", committed " + c.GetCommitted().AsTime().Format(time.RFC3339Nano)
	}
	say(cmd, "%s%s of zone %s%s\n", indent, which, c.GetZone(), at)
	var inputs []string
	for _, k := range c.GetInputs() {
		inputs = append(inputs, title(mesh.KeyFromProto(k)))
	}
	if rest := int(c.GetInputCount()) - len(inputs); rest > 0 {
		inputs = append(inputs, fmt.Sprintf("and %d more", rest))
	}
	if len(inputs) == 0 {
		inputs = []string{"nothing that configuration is computed from"}
	}
	say(cmd, "%schanged: %s\n", indent, strings.Join(inputs, ", "))
	if c.GetAffected() == 0 {
		say(cmd, "%sno connected proxy is affected\n", indent)
		printRejections(cmd, indent, c.GetRejections())
		return
	}
	say(cmd, "%saffected %d: %s\n", indent, c.GetAffected(), keyNames(c.GetNotified(), c.GetAffected()))
	pending := c.GetAffected() - c.GetAnswered() - c.GetDisconnected()
	text := fmt.Sprintf("%d acknowledged (%d rejected), %d disconnected, %d pending", c.GetAnswered(),
		c.GetRejected(), c.GetDisconnected(), pending)
	if pending > 0 {
		text += ": " + keyNames(c.GetPending(), pending)
	} else if c.GetDone() != nil && c.GetCommitted() != nil {
		text += fmt.Sprintf("; the last %s after the commit",
			took(c.GetDone().AsTime().Sub(c.GetCommitted().AsTime())))
	}
	say(cmd, "%s%s\n", indent, text)
	printRejections(cmd, indent, c.GetRejections())
}

// describeProxyDelivery is the short form of `debug proxy`, for describe.
func describeProxyDelivery(ctx context.Context, cmd *cobra.Command, c *client.Client, key mesh.Key) {
	got, err := c.DebugProxy(ctx, key)
	if err != nil {
		say(cmd, "\nDelivery: unknown (%v)\n", err)
		return
	}
	say(cmd, "\nDelivery:\n")
	if len(got.GetStreams()) == 0 {
		say(cmd, "  not connected to its zone's control plane\n")
	}
	for _, s := range got.GetStreams() {
		say(cmd, "  %s\n", delivered(s))
		if w := s.GetLastChange(); w != nil {
			say(cmd, "  last affected by revision %d\n", w.GetLast())
		}
		printRejections(cmd, "  ", s.GetRejections())
	}
}
