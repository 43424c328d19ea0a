// Package config gives every flag of a command an environment variable and a key in an optional
// YAML file, without a second list of names.
//
// # Model
//
// A command's flag set is the only list there is. The flag "data-dir" of the program with prefix
// MERIDIAN is also the environment variable MERIDIAN_DATA_DIR and the key "dataDir" or "data-dir"
// of the file that --config names. [Load] fills every flag that was not given on the command line:
// flags beat the environment, which beats the file, which beats the default.
//
// # Failure
//
// A value that a flag does not take is refused with the place it came from. A key of the file that
// no flag has is an error with the nearest known one, and so is an environment variable with the
// program's prefix that is nearly, but not quite, one of its flags. The values themselves are never
// printed, for some of them are secrets.
package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/internal/suggest"
)

// FileFlag is the name of the flag that names the file.
const FileFlag = "config"

// Source is where [Load] looks.
type Source struct {
	// Prefix of environment variables, such as "MERIDIAN".
	Prefix string
	// Environ is a list of "NAME=value"; nil means the process's own.
	Environ []string
	// Ignore lists flags that are for the command line alone, such as "help".
	Ignore []string
}

// AddFlag adds --config to the flag set.
func AddFlag(flags *pflag.FlagSet) {
	flags.String(FileFlag, "", "YAML file with a key for each flag, such as dataDir for --data-dir")
}

// EnvName is the environment variable of a flag.
func EnvName(prefix, flag string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Load fills the flags that were not given from the environment and from the file. Call it after parsing.
func Load(flags *pflag.FlagSet, src Source) error {
	environ := src.Environ
	if environ == nil {
		environ = os.Environ()
	}
	ignored := append([]string{"help"}, src.Ignore...)
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}

	var errs []error
	known := map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) {
		if slices.Contains(ignored, f.Name) {
			return
		}
		name := EnvName(src.Prefix, f.Name)
		known[name] = true
		value, ok := env[name]
		if !ok || f.Changed {
			return
		}
		if err := set(flags, f, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
		}
	})
	// Names of other programs with the same prefix are theirs; a near miss of ours is a mistake.
	for name := range env {
		if known[name] || !strings.HasPrefix(name, src.Prefix+"_") {
			continue
		}
		if near := suggest.Nearest(name, keys(known)); near != "" && suggest.Distance(name, near) == 1 {
			errs = append(errs,
				fmt.Errorf("environment variable %s is unknown; did you mean %s?", name, near))
		}
	}
	if f := flags.Lookup(FileFlag); f != nil && f.Value.String() != "" {
		errs = append(errs, loadFile(flags, f.Value.String(), ignored)...)
	}
	return errors.Join(errs...)
}

func loadFile(flags *pflag.FlagSet, path string, ignored []string) []error {
	data, err := os.ReadFile(path)
	if err != nil {
		return []error{fmt.Errorf("read --%s: %w", FileFlag, err)}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return []error{fmt.Errorf("%s is not YAML: %w", path, err)}
	}
	if len(doc.Content) == 0 {
		return nil // an empty file
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return []error{fmt.Errorf("%s:%d: must be a map of keys to values, one per flag", path, root.Line)}
	}
	byKey := map[string]*pflag.Flag{}
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == FileFlag || slices.Contains(ignored, f.Name) {
			return
		}
		byKey[f.Name] = f
		byKey[camel(f.Name)] = f
		names = append(names, camel(f.Name))
	})
	var errs []error
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		f, ok := byKey[key.Value]
		if !ok {
			msg := fmt.Sprintf("%s:%d: unknown key %q", path, key.Line, key.Value)
			if near := suggest.Nearest(camel(key.Value), names); near != "" {
				msg += fmt.Sprintf("; did you mean %q?", near)
			}
			errs = append(errs, errors.New(msg))
			continue
		}
		if line, dup := seen[f.Name]; dup {
			errs = append(errs,
				fmt.Errorf("%s:%d: key %q was given already in line %d", path, key.Line, key.Value, line))
			continue
		}
		seen[f.Name] = key.Line
		if f.Changed {
			continue
		}
		text, err := scalar(value)
		if err == nil {
			err = set(flags, f, text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: key %q: %w", path, value.Line, key.Value, err))
		}
	}
	return errs
}

// set gives a flag its value. pflag's own error repeats the value, which may be a secret; ours
// names the type instead.
func set(flags *pflag.FlagSet, f *pflag.Flag, value string) error {
	if err := flags.Set(f.Name, value); err != nil {
		return fmt.Errorf("not a value for --%s, which takes a %s", f.Name, f.Value.Type())
	}
	return nil
}

func scalar(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", errors.New("has no value")
		}
		return n.Value, nil
	case yaml.SequenceNode:
		var parts []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("must be a list of plain values")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	default:
		return "", errors.New("must be a plain value")
	}
}

// camel turns "data-dir" into "dataDir".
func camel(flag string) string {
	parts := strings.Split(flag, "-")
	for i, p := range parts[1:] {
		if p != "" {
			parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

func keys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
