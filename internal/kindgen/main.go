// Kindgen writes the table of kinds of a package, so that a kind is a file of its own there and has no
// row elsewhere that a person writes.
//
// A package takes part by a struct type with the name hooks. Its field kind has the type mesh.Kind; every
// other field is a function: a hook, which a kind may have or not. The hook route of MeshRetry is the
// function meshRetryRoute in meshretry.go. kindgen finds these functions and writes zz_kinds.go, a slice
// kinds of hooks with a row for each kind that has one, in the order of mesh.PolicyInfo.Order.
//
// Names that begin with that of a kind are kept for hooks: a function of such a name that is not one,
// has another signature or stands in another file is an error with its position. Kinds whose name is a
// common word, such as Zone, keep only the names of their hooks.
//
// Where a hook has the tag `kindgen:"spec"`, its type has proto.Message where the function of a kind has
// the kind's own message, and the row adapts it by the package's generic function of.
//
// Run it by make generate, from the root of the repository.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/meridian-mesh/meridian/mesh"
)

// packages that take part.
var packages = []string{"mesh/validate", "xds/compile", "xds/translate"}

// output is the name of the file in each package.
const output = "zz_kinds.go"

func main() {
	out := flag.String("o", ".", "`folder` below which the files are written")
	flag.Parse()
	for _, dir := range packages {
		if err := write(dir, filepath.Join(*out, dir)); err != nil {
			fmt.Fprintf(os.Stderr, "kindgen: %v\n", err)
			os.Exit(1)
		}
	}
}

// write generates the table of the package in dir into the folder to.
func write(dir, to string) error {
	files, err := read(dir)
	if err != nil {
		return err
	}
	p, err := parse(files)
	if err != nil {
		return err
	}
	text, err := p.generate(mesh.Kinds)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o777); err != nil {
		return err
	}
	name := filepath.Join(to, output)
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return os.WriteFile(name, text, 0o666)
}
