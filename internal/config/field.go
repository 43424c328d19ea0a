package config

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"
)

// Value is what a [Field] may hold.
type Value interface {
	string | bool | int | uint64 | time.Duration
}

// Field declares one setting: the variable that holds it, and its name, default and help. The flag,
// the environment variable and the key of the file all follow from it (see [Bind] and [Load]).
type Field struct {
	// Name of the flag, without the dashes.
	Name string

	help   string
	hidden bool
	value  func() any
	reset  func()
	bind   func(flags *pflag.FlagSet, help string)
	checks []check
}

type check struct {
	must string
	ok   func() bool
}

// Var declares a setting that is kept in *p.
func Var[T Value](p *T, name string, def T, help string) Field {
	return Field{
		Name:  name,
		help:  help,
		value: func() any { return *p },
		reset: func() { *p = def },
		bind: func(flags *pflag.FlagSet, help string) {
			switch p := any(p).(type) {
			case *string:
				flags.StringVar(p, name, any(def).(string), help)
			case *bool:
				flags.BoolVar(p, name, any(def).(bool), help)
			case *int:
				flags.IntVar(p, name, any(def).(int), help)
			case *uint64:
				flags.Uint64Var(p, name, any(def).(uint64), help)
			case *time.Duration:
				flags.DurationVar(p, name, any(def).(time.Duration), help)
			}
		},
	}
}

// Address declares an address to listen on.
func Address(p *string, name, def, help string) Field {
	return Var(p, name, def, help+"; port 0 picks a free port and logs it").
		Must("be HOST:PORT, such as 127.0.0.1:5681 or :5681", func() bool {
			_, _, err := net.SplitHostPort(*p)
			return err == nil
		})
}

// Must adds a rule, such as Must("be at least 1", ...). [Check] reports it as an error if ok is false.
// The error repeats the value, so a secret takes no rule.
func (f Field) Must(rule string, ok func() bool) Field {
	f.checks = append(f.checks[:len(f.checks):len(f.checks)], check{rule, ok})
	return f
}

// Hidden leaves the flag out of the help.
func (f Field) Hidden() Field {
	f.hidden = true
	return f
}

// Bind adds a flag for each field, which sets every variable to its default.
func Bind(flags *pflag.FlagSet, fields []Field) {
	for _, f := range fields {
		f.bind(flags, f.help)
		if f.hidden {
			flags.Lookup(f.Name).Hidden = true
		}
	}
}

// Defaults sets the variables to their defaults, for programs that have no flags.
func Defaults(fields []Field) {
	for _, f := range fields {
		f.reset()
	}
}

// Check returns every broken rule, joined.
func Check(fields []Field) error {
	var errs []error
	for _, f := range fields {
		for _, c := range f.checks {
			if c.ok() {
				continue
			}
			v := f.value()
			if text, ok := v.(string); ok {
				v = fmt.Sprintf("%q", text)
			}
			errs = append(errs, fmt.Errorf("--%s %v: must %s", f.Name, v, c.must))
		}
	}
	return errors.Join(errs...)
}
