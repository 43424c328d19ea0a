package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is one program of the stack, which may be killed and started again.
type process struct {
	name string
	args []string
	env  []string
	log  string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
	err   error
}

func newProcess(dir, name string, env []string, args ...string) *process {
	return &process{
		name: name,
		args: args,
		env:  env,
		log:  filepath.Join(dir, "logs", name+".log"),
	}
}

// start runs the program; its output is appended to its log.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		select {
		case <-p.ended:
		default:
			return nil // it runs
		}
	}
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), p.env...)
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
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.cmd, p.ended = cmd, ended
	return nil
}

// signal sends a signal and does not wait.
func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// kill ends the program as a crash would, and waits until it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	p.wait(context.Background(), 5*time.Second)
}

// wait returns whether the program ended in time.
func (p *process) wait(ctx context.Context, limit time.Duration) bool {
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

// dead returns why the program is not running, or nil.
func (p *process) dead() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		return fmt.Errorf("%s was not started", p.name)
	}
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended (%v); its last words are in %s", p.name, p.err, p.log)
	default:
		return nil
	}
}
