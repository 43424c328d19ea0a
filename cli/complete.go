package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
)

// completionTimeout bounds the question for names: the user's shell waits for it.
const completionTimeout = 2 * time.Second

// complete offers kinds for the first word of a command, and for the second the names of that kind that the
// control plane has. It offers nothing if the control plane does not answer.
func (s *selection) complete(cmd *cobra.Command, args []string,
	word string) ([]string, cobra.ShellCompDirective) {
	var words []string
	switch len(args) {
	case 0:
		for _, info := range mesh.Kinds {
			words = append(words, strings.ToLower(string(info.Kind)))
		}
	case 1:
		words = s.names(cmd, args[0])
	}
	words = slices.DeleteFunc(words, func(w string) bool { return !strings.HasPrefix(w, word) })
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (s *selection) names(cmd *cobra.Command, kind string) []string {
	info, err := kindOf(kind)
	if err != nil {
		return nil
	}
	c, done, err := s.connect(cmd)
	if err != nil {
		return nil
	}
	defer done()
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()

	list := client.ListOptions{Kind: info.Kind}
	if info.Scope == mesh.ScopeMesh {
		list.Mesh = s.mesh
	}
	page, err := c.List(ctx, list)
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range page.Resources {
		if s.zone == "" || r.Key.Zone == s.zone {
			names = append(names, r.Key.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
