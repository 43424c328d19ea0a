package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/api/client"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Manage the list of control planes and choose the current one",
		Long: "Manage the control planes that this program calls, in ~/.meridian/config (mode 0600; it may " +
			"hold tokens).",
	}
	cmd.AddCommand(newConfigAdd(), newConfigUse(), newConfigList(), newConfigRemove())
	return cmd
}

func newConfigAdd() *cobra.Command {
	o := &clientOptions{}
	var replace, skipCheck bool
	cmd := &cobra.Command{
		Use:     "add NAME --address URL [--token-file FILE]",
		Short:   "Add a control plane that answers, and make it the current one",
		Example: "  meridian config add prod --address https://cp.example:5682 --token-file ann.token",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.address == "" {
				return errors.New("--address is missing; specify the control plane's API, such as " +
					"https://cp.example:5682")
			}
			item := &controlPlaneItem{
				Name:       args[0],
				Address:    o.address,
				CAFile:     o.caFile,
				SkipVerify: o.skipVerify,
			}
			if o.tokenFile != "" {
				data, err := os.ReadFile(o.tokenFile)
				if err != nil {
					return fmt.Errorf("--token-file: %w", err)
				}
				item.Token = strings.TrimSpace(string(data))
			}
			// Reject what no call could use.
			opts := client.Options{
				URL:        item.Address,
				Token:      item.Token,
				CAFile:     item.CAFile,
				SkipVerify: item.SkipVerify,
			}
			if err := o.local(&opts, true); err != nil {
				return err
			}
			c, err := client.New(opts)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			f, err := o.load()
			if err != nil {
				return err
			}
			if f.find(args[0]) != nil && !replace {
				return fmt.Errorf("control plane %q already exists; specify --replace, or another name",
					args[0])
			}
			if !skipCheck {
				ctx, cancel := o.call(cmd)
				defer cancel()
				if _, err := c.Status(ctx); err != nil {
					return fmt.Errorf("%q was not added: %w; --skip-check adds it all the same", args[0], err)
				}
			}
			f.ControlPlanes = slices.DeleteFunc(f.ControlPlanes,
				func(cp *controlPlaneItem) bool { return cp.Name == args[0] })
			f.ControlPlanes = append(f.ControlPlanes, item)
			f.Current = args[0]
			if err := o.save(f); err != nil {
				return err
			}
			say(cmd, "added %s (%s); it is now the current control plane\n", item.Name, item.Address)
			return nil
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "replace a control plane of that name")
	cmd.Flags().BoolVar(&skipCheck, "skip-check", false, "add it without asking whether it answers")
	o.flags(cmd)
	return cmd
}

func newConfigUse() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "use NAME",
		Short: "Choose the current control plane",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := o.load()
			if err != nil {
				return err
			}
			if f.find(args[0]) == nil {
				return unknownControlPlane(args[0], f)
			}
			f.Current = args[0]
			return o.save(f)
		},
	}
	fileFlag(cmd, o)
	return cmd
}

func newConfigList() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the control planes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := o.load()
			if err != nil {
				return err
			}
			var rows [][]string
			for _, cp := range f.ControlPlanes {
				active, token := "", "no"
				if cp.Name == f.Current {
					active = "*"
				}
				if cp.Token != "" {
					token = "yes"
				}
				rows = append(rows, []string{active, cp.Name, cp.Address, token})
			}
			if len(rows) == 0 {
				say(cmd, "no control plane was added; the default is %s\n", defaultAddress)
				return nil
			}
			table(cmd, []string{"ACTIVE", "NAME", "ADDRESS", "TOKEN"}, rows)
			return nil
		},
	}
	fileFlag(cmd, o)
	return cmd
}

func newConfigRemove() *cobra.Command {
	o := &clientOptions{}
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a control plane from the list",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := o.load()
			if err != nil {
				return err
			}
			if f.find(args[0]) == nil {
				return unknownControlPlane(args[0], f)
			}
			f.ControlPlanes = slices.DeleteFunc(f.ControlPlanes,
				func(cp *controlPlaneItem) bool { return cp.Name == args[0] })
			if f.Current == args[0] {
				f.Current = ""
			}
			return o.save(f)
		},
	}
	fileFlag(cmd, o)
	return cmd
}

func fileFlag(cmd *cobra.Command, o *clientOptions) {
	cmd.Flags().StringVar(&o.file, "client-config", "",
		"file with the control planes (default ~/.meridian/config)")
}
