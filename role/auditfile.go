package role

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/meridian-mesh/meridian/store"
)

// auditFile appends rows of the audit as lines of JSON. Who rotates it moves it: the next row finds that
// the path is another file and opens it again. SIGHUP does the same, for those who are used to that.
type auditFile struct {
	path string

	mu   sync.Mutex
	file *os.File // guarded by mu; nil: open it with the next row
}

// openAuditFile opens or creates the file, which only its owner may read: it says who does what.
func openAuditFile(path string) (*auditFile, error) {
	a := &auditFile{path: path}
	err := a.open()
	a.close() // the first row opens it: a control plane that is not run holds nothing
	return a, err
}

// open is called with mu held, or before others know a.
func (a *auditFile) open() (err error) {
	a.file, err = os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		a.file = nil
	}
	return err
}

// moved says that the path is not the open file any more; mu is held.
func (a *auditFile) moved() bool {
	there, err := os.Stat(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	has, err2 := a.file.Stat()
	return err == nil && err2 == nil && !os.SameFile(there, has)
}

// Append implements [api.AuditSink].
func (a *auditFile) Append(e store.AuditEntry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file != nil && a.moved() {
		a.close()
	}
	if a.file == nil {
		if err := a.open(); err != nil {
			return err
		}
	}
	// One write: lines of several processes that append to one file do not mix.
	_, err = a.file.Write(append(line, '\n'))
	return err
}

// close is called with mu held.
func (a *auditFile) close() {
	if a.file != nil {
		_ = a.file.Close()
		a.file = nil
	}
}

// run closes the file on SIGHUP, so that the next row opens it again, and at ctx's end.
func (a *auditFile) run(ctx context.Context) error { return a.follow(ctx, func() {}) }

// follow is run; it calls listening when SIGHUP is heard.
func (a *auditFile) follow(ctx context.Context, listening func()) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	listening()
	for {
		select {
		case <-hangup:
		case <-ctx.Done():
		}
		a.mu.Lock()
		a.close()
		a.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
