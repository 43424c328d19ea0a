// Package child runs other programs of ours as children of this process: the control planes,
// sidecars and applications of the demo and of the benchmarks.
//
// A [Process] may be started again after it ended or was killed; its output is appended to one log
// file. A child dies with its parent (on Linux), and is in a process group of its own, so that an
// interrupt at the terminal reaches the parent alone, which then ends its children in order.
//
// No example: it needs a program to run.
package child

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// killTime is how long a killed program may take to be gone.
const killTime = 5 * time.Second

// Process is one program. Its methods are safe for concurrent use.
type Process struct {
	// Name is for messages. Args are the program and its arguments.
	Name string
	Args []string
	// Env is added to this process's environment, as NAME=value.
	Env []string
	// Log is the path of the file to which both outputs are appended.
	Log string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
	err   error
}

// Start runs the program; it does nothing if it runs already.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.ended != nil {
		select {
		case <-p.ended:
		default:
			return nil
		}
	}

	f, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.SysProcAttr = attributes()

	ended := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The parent-death signal belongs to the thread that starts the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()

		err := cmd.Start()
		started <- err
		if err == nil {
			err = cmd.Wait()
		}
		_ = f.Close()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(ended)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.ended = cmd, ended
	return nil
}

// PID is the process id of the last start; 0 before the first.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Signal sends a signal and does not wait.
func (p *Process) Signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// Kill ends the program as a crash would, and waits until it is gone.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	p.Wait(context.Background(), killTime)
}

// Stop asks the program to end, and kills it if it has not after limit.
func (p *Process) Stop(limit time.Duration) {
	p.Signal(syscall.SIGTERM)
	if !p.Wait(context.Background(), limit) {
		p.Kill()
	}
}

// Wait returns whether the program ended within limit and before ctx did.
func (p *Process) Wait(ctx context.Context, limit time.Duration) bool {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()

	if ended == nil {
		return true
	}
	select {
	case <-ended:
		return true
	case <-ctx.Done():
	case <-time.After(limit):
	}
	return false
}

// Err says why the program is not running; nil while it runs.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.ended == nil {
		return fmt.Errorf("%s was not started", p.Name)
	}
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended (%v); the end of %s says why", p.Name, p.err, p.Log)
	default:
		return nil
	}
}
