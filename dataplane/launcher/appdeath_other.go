//go:build !linux

package launcher

import "context"

// listenerDeath never fires here: the probes alone decide.
func listenerDeath(context.Context, string) <-chan struct{} { return nil }
