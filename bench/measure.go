package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// restTime is how long the control plane is at rest before its memory is read.
const restTime = 3 * time.Second

func (b *bench) rest(ctx context.Context) {
	select {
	case <-time.After(restTime):
	case <-ctx.Done():
	}
}

// memory is what the process takes now, in MB: resident, and of the heap what is live.
func memory() Memory {
	m := Memory{}
	if data, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(data)); len(f) > 1 {
			pages, _ := strconv.ParseFloat(f[1], 64)
			m.Resident = pages * float64(os.Getpagesize()) / 1e6
		}
	}
	var s runtime.MemStats
	runtime.GC()
	runtime.GC() // what lies in pools goes with the second
	runtime.ReadMemStats(&s)
	m.Live = float64(s.HeapAlloc+s.StackInuse) / 1e6
	return m
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile in milliseconds, nearest rank. It sorts d.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return milliseconds(d[max(0, int(math.Ceil(q*float64(len(d))))-1)])
}

// child is the process of the sidecars.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startChild(ctx context.Context, command func(context.Context) *exec.Cmd) (*child, error) {
	cmd := command(ctx)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the sidecars: %w", err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	return &child{cmd: cmd, in: in, lines: lines}, nil
}

// do gives an order and returns what came in until now.
func (c *child) do(o order) (report, error) {
	var r report
	if err := json.NewEncoder(c.in).Encode(o); err != nil {
		return r, fmt.Errorf("the sidecars' process has ended: %w", err)
	}
	if !c.lines.Scan() {
		return r, errors.Join(errors.New("the sidecars' process has ended"), c.lines.Err())
	}
	return r, json.Unmarshal(c.lines.Bytes(), &r)
}

func (c *child) close() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}
