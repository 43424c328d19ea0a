package obs

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"
)

func TestDiagnostics(t *testing.T) {
	_, level, err := NewLogger("json", "warn")
	if err != nil {
		t.Fatal(err)
	}
	var notReady error
	h := Diagnostics(NewRegistry(), level, func() error { return notReady })
	call := func(method, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		if method == http.MethodPut {
			r.Header.Set("Content-Type", formType) // as curl -d does
		}
		h.ServeHTTP(w, r)
		return w
	}
	notReady = errors.New("the store has not been read yet")
	for _, c := range []struct {
		method, path, body string
		status             int
		contains           string
	}{
		{"GET", "/healthy", "", 200, ""},
		{"GET", "/ready", "", 503, "the store has not been read yet\n"},
		{"GET", "/metrics", "", 200, "go_goroutines"},
		{"GET", "/logging", "", 200, `"warn"`},
		{"PUT", "/logging", `{"level":"debug"}`, 200, `"debug"`},
		{"PUT", "/logging", `{"level":"loud"}`, 400, "loud"},
		{"PUT", "/logging", `level=info`, 200, `"info"`},
		{"PUT", "/logging", `level=debug`, 200, `"debug"`},
		{"GET", "/debug/pprof/cmdline", "", 200, ""},
		{"GET", "/debug/pprof/goroutine?debug=1", "", 200, "goroutine profile"},
		{"POST", "/healthy", "", 405, ""},
		{"GET", "/nope", "", 404, ""},
	} {
		w := call(c.method, c.path, c.body)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.contains) {
			t.Errorf("%s %s: %d %q, want %d with %q", c.method, c.path, w.Code, w.Body, c.status, c.contains)
		}
	}
	if level.Level() != zapcore.DebugLevel {
		t.Errorf("level is %s after PUT, want debug", level)
	}
	notReady = nil
	if w := call(http.MethodGet, "/ready", ""); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("ready: %d %q", w.Code, w.Body)
	}
}

func TestNewLoggerRefuses(t *testing.T) {
	for _, c := range [][2]string{{"xml", "info"}, {"json", "loud"}, {"json", "fatal"}} {
		if _, _, err := NewLogger(c[0], c[1]); err == nil {
			t.Errorf("NewLogger(%q, %q) is accepted", c[0], c[1])
		}
	}
	for _, c := range [][2]string{{"", ""}, {"console", "debug"}, {"json", "error"}} {
		if _, _, err := NewLogger(c[0], c[1]); err != nil {
			t.Errorf("NewLogger(%q, %q): %v", c[0], c[1], err)
		}
	}
}
