// Package pgserver starts a throwaway PostgreSQL server from the installed binaries, for the demo and,
// through test/pgtest, for tests.
//
// The server listens on a Unix socket in its directory and nowhere else, and trusts every local user who
// can reach the socket. It does not flush to disk (fsync=off): its data survives a crash of the server, not
// of the machine. PostgreSQL refuses to run as root; then it runs as the user postgres, which owns the
// directory and must be able to enter all folders above it. On Linux the server ends with the process that
// started it.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// startTimeout of initdb and of the server each.
const startTimeout = 60 * time.Second

// errNoServer says what to install.
var errNoServer = errors.New("no PostgreSQL server binaries (initdb, postgres) in PATH or " +
	"/usr/lib/postgresql/*/bin: install the Debian package postgresql (apt-get install postgresql), " +
	"or set MERIDIAN_TEST_POSTGRES_URL to a server's URL")

// Server is a running server. Its methods are for one goroutine.
type Server struct {
	process *os.Process
	socket  string // directory of the socket
	remove  string // directory to remove at the end, if any
	ended   bool
}

// Durable are the settings of a server that flushes to disk, as one in production does.
var Durable = []string{"fsync=on", "synchronous_commit=on", "full_page_writes=on"}

// Start starts a server whose data is in dir, which it initialises if it has no data. It returns when the
// server accepts connections. settings, each name=value, override those of the package.
func Start(dir string, settings ...string) (*Server, error) {
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cred, err := credential()
	if err != nil {
		return nil, err
	}
	if err := own(dir, cred); err != nil {
		return nil, err
	}

	data := filepath.Join(dir, "data")
	if err := initialise(bin, dir, data, cred); err != nil {
		return nil, err
	}

	s := &Server{socket: dir}
	if len(dir) > 80 { // a socket's path has at most 107 bytes
		if s.socket, err = os.MkdirTemp("", "pg"); err != nil {
			return nil, err
		}
		s.remove = s.socket
		if err := own(s.socket, cred); err != nil {
			return nil, err
		}
	}

	logFile, err := os.Create(filepath.Join(dir, "postgres.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }()
	if err := s.start(bin, dir, data, cred, logFile, settings); err != nil {
		s.Stop()
		text, _ := os.ReadFile(logFile.Name())
		return nil, fmt.Errorf("start postgres: %w\n%s", err, text)
	}
	return s, nil
}

// own gives a path to the user that the server runs as.
func own(path string, cred *syscall.Credential) error {
	if cred == nil {
		return nil
	}
	return os.Chown(path, int(cred.Uid), int(cred.Gid))
}

// initialise creates the data directory if there is none.
func initialise(bin, dir, data string, cred *syscall.Credential) error {
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return nil
	}

	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres",
		"-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	cmd.Dir = dir
	cmd.SysProcAttr = attributes(cred)

	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("initdb: %w: the user postgres must be able to enter every folder above %s; "+
			"use another directory", err, dir)
	}
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

func (s *Server) start(bin, dir, data string, cred *syscall.Credential, log *os.File,
	settings []string) error {
	args := []string{"-D", data, "-k", s.socket,
		"-c", "listen_addresses=",
		"-c", "fsync=off",
		"-c", "synchronous_commit=off",
		"-c", "full_page_writes=off",
		"-c", "max_connections=200",
		"-c", "autovacuum_naptime=10s"}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"), args...)
	cmd.Dir = dir
	cmd.SysProcAttr = attributes(cred)
	cmd.Stdout = log
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		s.ended = true
		return err
	}
	s.process = cmd.Process
	return s.wait()
}

// wait blocks until the server accepts connections.
func (s *Server) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()

	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}

		var status syscall.WaitStatus
		if pid, _ := syscall.Wait4(s.process.Pid, &status, syscall.WNOHANG, nil); pid == s.process.Pid {
			s.ended = true
			return fmt.Errorf("it ended with status %d", status.ExitStatus())
		}

		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// PID is the process id of the server, whose children serve the connections.
func (s *Server) PID() int { return s.process.Pid }

// URL is the address of one of the server's databases; "postgres" always exists.
func (s *Server) URL(database string) string {
	q := url.Values{"host": {s.socket}, "sslmode": {"disable"}}
	return "postgres://postgres@/" + url.PathEscape(database) + "?" + q.Encode()
}

// Stop ends the server and its connections, and keeps the data. Stopping twice does nothing.
func (s *Server) Stop() {
	if !s.ended {
		s.ended = true
		if err := s.process.Signal(os.Interrupt); err == nil { // fast shutdown
			_, _ = s.process.Wait()
		}
	}
	if s.remove != "" {
		_ = os.RemoveAll(s.remove)
	}
}

// findBinaries is the directory of initdb and postgres, the newest version first.
func findBinaries() (string, error) {
	var dirs []string
	for _, name := range []string{"postgres", "initdb"} {
		if path, err := exec.LookPath(name); err == nil {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				dirs = append(dirs, filepath.Dir(real))
			}
		}
	}

	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(installed, func(a, b string) int {
		version := func(dir string) int {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
			return n
		}
		return version(b) - version(a)
	})

	for _, dir := range append(dirs, installed...) {
		_, err1 := exec.LookPath(filepath.Join(dir, "initdb"))
		_, err2 := exec.LookPath(filepath.Join(dir, "postgres"))
		if err1 == nil && err2 == nil {
			return dir, nil
		}
	}
	return "", errNoServer
}

// credential is the user postgres if we are root, else nil.
func credential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// Standby starts a server whose data, in dir, is a copy of s that follows it by streaming replication.
func (s *Server) Standby(dir string) (*Server, error) {
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	cred, err := credential()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := own(dir, cred); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "pg_basebackup"), "-h", s.socket, "-U", "postgres",
		"-D", filepath.Join(dir, "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync")
	cmd.Dir = dir
	cmd.SysProcAttr = attributes(cred)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	return Start(dir)
}
