package launcher

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/meridian-mesh/meridian/test/envoytest"
)

// TestEnvoyLogsJSON: with --log-format json every line of both programs is a JSON object with the same keys.
func TestEnvoyLogsJSON(t *testing.T) {
	t.Parallel()

	bin := envoytest.Binary(t)
	config := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(
		config,
		[]byte(`{"node": {"id": "a\"b", "cluster": "c"}, "no \\"such\\" field": 1}`),
		0o600,
	); err != nil {
		t.Fatal(err)
	}
	e := &envoy{bootstrap: config, logLevel: "info", logJSON: true}
	out, err := exec.Command(bin, append(e.args(), "--mode", "validate")...).CombinedOutput()
	if err == nil {
		t.Fatalf("a wrong bootstrap is taken: %s", out)
	}
	lines := 0
	for line := range bytes.Lines(bytes.TrimSpace(out)) {
		var entry struct{ Level, Time, Logger, Msg string }
		if json.Unmarshal(line, &entry) != nil || entry.Level == "" || entry.Time == "" ||
			entry.Logger == "" ||
			entry.Msg == "" {
			t.Errorf("not an entry: %s", line)
		}
		lines++
	}
	if lines == 0 {
		t.Errorf("%d lines: %s", lines, out)
	}
}
