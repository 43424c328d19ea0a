package child

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProcess(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	p := &Process{
		Name: "sh",
		Args: []string{"sh", "-c", "echo $GREETING; read line"},
		Env:  []string{"GREETING=hello"},
		Log:  log,
	}
	if err := p.Err(); err == nil {
		t.Error("a process that was not started has no error")
	}

	for range 2 { // it may be started again
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		// Standard input is empty, so that the program ends by itself.
		if !p.Wait(context.Background(), 10*time.Second) {
			t.Fatal("it did not end")
		}
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(data), "hello"); got != 2 {
		t.Errorf("the log has %d greetings, want 2", got)
	}
	if err := p.Err(); err == nil {
		t.Error("a process that ended has no error")
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	p := &Process{
		Name: "sleep", Args: []string{"sleep", "60"}, Log: filepath.Join(t.TempDir(), "log"),
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Kill()

	if _, err := CPU(p.PID()); err != nil {
		t.Error(err)
	}
	now, peak, err := Memory(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if now == 0 || peak < now {
		t.Errorf("memory is %d now and %d at its peak", now, peak)
	}

	p.Stop(10 * time.Second)
	if p.Err() == nil {
		t.Error("it still runs after Stop")
	}
}
