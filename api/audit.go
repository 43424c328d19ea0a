package api

import (
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/mesh"
)

// audit writes one line for every write and every token, done or rejected.
type audit struct{ log *zap.Logger }

// entry of the audit log.
type entry struct {
	caller   authn.Caller
	verb     string
	key      mesh.Key
	dryRun   bool
	revision uint64
	changed  bool
}

func (a *audit) write(e entry, err error) {
	a.line(e.caller, e.verb, err,
		[]zap.Field{zap.Stringer("key", e.key), zap.Bool("dryRun", e.dryRun)},
		zap.Uint64("revision", e.revision), zap.Bool("changed", e.changed))
}

func (a *audit) issue(c authn.Caller, what string, fields []zap.Field, err error) {
	a.line(c, "issue", err, append([]zap.Field{zap.String("token", what)}, fields...))
}

// line writes fields always and done only of what was done.
func (a *audit) line(c authn.Caller, verb string, err error, fields []zap.Field, done ...zap.Field) {
	all := append([]zap.Field{
		zap.String("user", c.Name),
		zap.Strings("groups", c.Groups),
		zap.String("verb", verb),
	}, fields...)
	if err != nil {
		a.log.Warn("audit: rejected", append(all, zap.String("reason", err.Error()))...)
		return
	}
	a.log.Info("audit", append(all, done...)...)
}
