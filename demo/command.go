package demo

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
)

// runCommand runs a program to its end.
func runCommand(ctx context.Context, name string, args ...string) (stdout, stderr string, code int) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		code = -1
		errOut.WriteString(err.Error())
	}
	return out.String(), errOut.String(), code
}
