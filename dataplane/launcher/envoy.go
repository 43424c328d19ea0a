package launcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/backoff"
)

// Limits of the supervision of Envoy.
const (
	// stopGrace is how long Envoy may take to end after SIGTERM.
	stopGrace = 5 * time.Second
	// neverLive is how many starts in a row may fail before Envoy was ever live.
	neverLive = 4
	// stable is how long Envoy must have run for its next crash to count as the first.
	stable = time.Minute
)

// envoy is the child process.
type envoy struct {
	log            *zap.Logger
	binary         string
	bootstrap      string
	drainTime      time.Duration
	logLevel       string
	logJSON        bool
	concurrency    int
	admin          admin
	stdout, stderr *os.File
	// onLive hears when Envoy takes connections, and when it is gone.
	onLive func(bool)

	leave      atomic.Bool // do not restart an Envoy that ends
	killAtOnce atomic.Bool // stop with SIGKILL
}

// run keeps one Envoy alive until ctx ends; then it stops Envoy and returns nil. It returns an
// error if Envoy never comes up.
func (e *envoy) run(ctx context.Context) error {
	everLive := false
	delays := backoff.Backoff{Min: 100 * time.Millisecond, Max: 10 * time.Second}
	for {
		began := time.Now()
		live, err := e.once(ctx)
		everLive = everLive || live
		switch {
		case ctx.Err() != nil, e.leave.Load():
			return nil
		case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
			return fmt.Errorf("start Envoy %s: %w", e.binary, err)
		}
		if time.Since(began) > stable {
			delays.Reset()
		}
		delay := delays.Next()
		if !everLive && delays.Failures() >= neverLive {
			return fmt.Errorf("envoy ended %d times before it was ever live (last: %v); its own log "+
				"above says why", delays.Failures(), err)
		}
		if delays.Failures() == 1 {
			delay = 0 // traffic waits for the first restart
		}
		e.log.Error("Envoy ended; restarting it", zap.NamedError("reason", err), zap.Duration("in", delay),
			zap.Int("in_a_row", delays.Failures()))
		if backoff.Wait(ctx, delay) != nil {
			return nil
		}
	}
}

// jsonLog is Envoy's format of a log line with the keys of the launcher's own. %j is the message, escaped.
const jsonLog = `{"level":"%l","time":"%Y-%m-%dT%T.%e%z","logger":"envoy.%n","msg":"%j"}`

func (e *envoy) args() []string {
	level := e.logLevel
	if level == "" {
		level = "warning"
	}
	args := []string{"--config-path", e.bootstrap, "--drain-time-s",
		strconv.Itoa(max(1, int(e.drainTime/time.Second))),
		"--drain-strategy", "immediate", "--disable-hot-restart", "--log-level", level}
	if e.logJSON {
		args = append(args, "--log-format", jsonLog)
	}
	if e.concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(e.concurrency))
	}
	return args
}

// once runs Envoy to its end and says whether it was live meanwhile.
func (e *envoy) once(ctx context.Context) (live bool, err error) {
	cmd := exec.Command(e.binary, e.args()...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if e.stdout != nil {
		cmd.Stdout = e.stdout
	}
	if e.stderr != nil {
		cmd.Stderr = e.stderr
	}
	cmd.SysProcAttr = childAttributes()
	cmd.Env = childEnvironment(os.Environ())

	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// The parent-death signal goes off when the thread that started the child ends, so the
		// thread is held until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		ended <- cmd.Wait()
	}()
	if err := <-started; err != nil {
		return false, err
	}
	e.log.Info("Envoy started", zap.Int("pid", cmd.Process.Pid), zap.String("binary", e.binary))

	liveCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	isLive := make(chan struct{})
	go func() {
		if e.admin.waitLive(liveCtx) == nil {
			close(isLive)
		}
	}()
	report := isLive
	for {
		select {
		case <-report:
			e.log.Info("Envoy is live")
			live, report = true, nil
			e.onLive(true)
		case err := <-ended:
			e.onLive(false)
			select {
			case <-isLive:
				live = true
			default:
			}
			if err == nil {
				err = errors.New("exit code 0")
			}
			return live, err
		case <-ctx.Done():
			return live, e.stop(cmd.Process, ended)
		}
	}
}

func (e *envoy) stop(p *os.Process, ended <-chan error) error {
	if !e.killAtOnce.Load() {
		_ = p.Signal(syscall.SIGTERM)
		select {
		case <-ended:
			return nil
		case <-time.After(stopGrace):
			e.log.Warn("Envoy did not end in time; killing it", zap.Duration("after", stopGrace))
		}
	}
	_ = p.Kill()
	<-ended
	return nil
}
