package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/internal/localapi"
	"github.com/meridian-mesh/meridian/internal/suggest"
	"github.com/meridian-mesh/meridian/mesh"
)

// clientOptions say which control plane a verb calls.
type clientOptions struct {
	address, tokenFile, caFile string
	dataDir                    string
	skipVerify                 bool
	controlPlane, file         string
	callTimeout                time.Duration
}

const defaultAddress = "http://localhost:5681"

func (o *clientOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.address, "address", "",
		"URL of the control plane's API (default: the current one of \"meridian config\", else "+
			defaultAddress+")")
	f.StringVar(&o.tokenFile, "token-file", "",
		"file with a user token; not needed for a control plane that runs on this machine as this user")
	f.StringVar(&o.dataDir, "data-dir", "",
		"data directory of a control plane on this machine, to call it as administrator (default: those "+
			"of ~/.meridian and /var/lib/meridian)")
	f.StringVar(&o.caFile, "ca-file", "",
		"PEM file to verify the control plane by, instead of the token's pins; \"system\" is the "+
			"system's roots")
	f.BoolVar(&o.skipVerify, "tls-skip-verify", false,
		"do not verify the control plane's certificate; for trying out")
	f.StringVar(&o.controlPlane, "control-plane", "", "name of a control plane of \"meridian config\"")
	f.StringVar(&o.file, "client-config", "", "file with the control planes (default ~/.meridian/config)")
	f.DurationVar(&o.callTimeout, "call-timeout", time.Minute, "timeout of one call")
}

// connect makes the client. Flags beat the client's file.
func (o *clientOptions) connect(cmd *cobra.Command) (*client.Client, func(), error) {
	opts := client.Options{URL: o.address, CAFile: o.caFile, SkipVerify: o.skipVerify}
	if o.address == "" || o.controlPlane != "" {
		file, err := o.load()
		if err != nil {
			return nil, nil, err
		}
		name := o.controlPlane
		if name == "" {
			name = file.Current
		}
		if name != "" {
			cp := file.find(name)
			if cp == nil {
				return nil, nil, unknownControlPlane(name, file)
			}
			if o.address == "" {
				opts.URL = cp.Address
			}
			opts.Token = cp.Token
			if opts.CAFile == "" {
				opts.CAFile = cp.CAFile
			}
			opts.SkipVerify = opts.SkipVerify || cp.SkipVerify
		}
	}
	named := opts.URL != ""
	if !named {
		opts.URL = defaultAddress
	}
	if o.tokenFile != "" {
		data, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return nil, nil, fmt.Errorf("--token-file: %w", err)
		}
		opts.Token = strings.TrimSpace(string(data))
	} else if t := strings.TrimSpace(os.Getenv("MERIDIAN_TOKEN")); t != "" {
		opts.Token = t
	}
	if err := o.local(&opts, named); err != nil {
		return nil, nil, err
	}
	if opts.SkipVerify {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(),
			"Warning: the control plane's certificate is not verified (--tls-skip-verify)")
	}
	c, err := client.New(opts)
	if err != nil {
		return nil, nil, err
	}
	return c, func() { _ = c.Close() }, nil
}

// local lets a call go through the socket of a control plane on this machine, if that is the one that is
// meant: by its data directory, or by its address where no token says who calls. named says that the user
// named an address.
func (o *clientOptions) local(opts *client.Options, named bool) error {
	if opts.Token != "" && o.dataDir == "" {
		return nil
	}
	dir := o.dataDir
	if dir == "" {
		dir = os.Getenv("MERIDIAN_DATA_DIR")
	}
	found, denied := localapi.Find(dir)
	if dir != "" && len(found) == 0 {
		if len(denied) > 0 {
			return fmt.Errorf("data directory %s: this user may not read it; run the command as the user of "+
				"the control plane or as root, or specify --token-file", dir)
		}
		return fmt.Errorf("no control plane runs with the data directory %s", dir)
	}
	if dir != "" && !named || len(found) == 1 && !named {
		opts.DataDir = found[0].Dir
		return nil
	}
	for _, cp := range found {
		if cp.Serves(opts.URL) {
			opts.DataDir = cp.Dir
			return nil
		}
	}
	if !named && len(found) > 1 {
		var list []string
		for _, cp := range found {
			list = append(list, fmt.Sprintf("--data-dir %s (API at %s)", cp.Dir, cp.Address))
		}
		return fmt.Errorf("several control planes run here, none of them at %s; choose one with %s",
			defaultAddress, strings.Join(list, ", or "))
	}
	return nil
}

// call bounds one call's time.
func (o *clientOptions) call(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), o.callTimeout)
}

// clientFile is ~/.meridian/config.
type clientFile struct {
	Current       string              `yaml:"current,omitempty"`
	ControlPlanes []*controlPlaneItem `yaml:"controlPlanes"`
}

type controlPlaneItem struct {
	Name       string `yaml:"name"`
	Address    string `yaml:"address"`
	Token      string `yaml:"token,omitempty"`
	CAFile     string `yaml:"caFile,omitempty"`
	SkipVerify bool   `yaml:"tlsSkipVerify,omitempty"`
}

func (f *clientFile) find(name string) *controlPlaneItem {
	for _, cp := range f.ControlPlanes {
		if cp.Name == name {
			return cp
		}
	}
	return nil
}

func unknownControlPlane(name string, f *clientFile) error {
	var names []string
	for _, cp := range f.ControlPlanes {
		names = append(names, cp.Name)
	}
	if near := suggest.Nearest(name, names); near != "" {
		return fmt.Errorf("unknown control plane %q; did you mean %q?", name, near)
	}
	return fmt.Errorf("unknown control plane %q; add it with: meridian config add %s --address URL",
		name, name)
}

func (o *clientOptions) path() (string, error) {
	if o.file != "" {
		return o.file, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find ~/.meridian/config: %w; specify --client-config", err)
	}
	return filepath.Join(home, ".meridian", "config"), nil
}

func (o *clientOptions) load() (*clientFile, error) {
	path, err := o.path()
	if err != nil {
		if o.address == "" && o.controlPlane == "" {
			return &clientFile{}, nil // no home, no file: the default address
		}
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &clientFile{}, nil
	}
	if err != nil {
		return nil, err
	}
	var f clientFile
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil && len(strings.TrimSpace(string(data))) > 0 {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &f, nil
}

// save writes the file whole, mode 0600, for it may hold tokens.
func (o *clientOptions) save(f *clientFile) error {
	path, err := o.path()
	if err != nil {
		return err
	}
	data, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// kindOf finds a kind by any of its spellings: MeshTimeout, meshtimeout(s), mesh-timeout, mt.
func kindOf(word string) (*mesh.KindInfo, error) {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "")) }
	w := plain(word)
	var names []string
	for _, info := range mesh.Kinds {
		kind := plain(string(info.Kind))
		if slices.Contains([]string{kind, kind + "s", plain(info.Plural), info.Short}, w) {
			return info, nil
		}
		names = append(names, kind, plain(info.Plural))
	}
	msg := fmt.Sprintf("unknown kind %q", word)
	if near := suggest.Nearest(w, names); near != "" {
		return nil, fmt.Errorf("%s; did you mean %q?", msg, near)
	}
	names = names[:0]
	for _, info := range mesh.Kinds {
		names = append(names, strings.ToLower(string(info.Kind)))
	}
	return nil, fmt.Errorf("%s; known kinds are %s", msg, strings.Join(names, ", "))
}

// title is "MeshTimeout default/slow", with the zone if it has one: "MeshService default/web (zone us-east)".
func title(k mesh.Key) string {
	s := string(k.Kind) + " "
	if k.Mesh != "" {
		s += k.Mesh + "/"
	}
	if k.Namespace != "" {
		s += k.Namespace + "/"
	}
	s += k.Name
	if k.Zone != "" {
		s += " (zone " + k.Zone + ")"
	}
	return s
}

// table prints columns padded with three spaces.
func table(cmd *cobra.Command, header []string, rows [][]string) {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush()
}

// age is in Kuma's form: one unit, 5s 3m 2h 4d 1y.
func age(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := max(0, time.Since(t))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	case d < 365*24*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	default:
		return fmt.Sprintf("%dy", int(d.Hours()/24/365))
	}
}

// took prints a duration in the unit in which delays of delivery are compared.
func took(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}
