package pgtest

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
	"/usr/lib/postgresql/*/bin: " +
	"install the Debian package postgresql (apt-get install postgresql), or set " +
	"MERIDIAN_TEST_POSTGRES_URL to " +
	"a server's URL")

// Start starts a throwaway server whose data is in dir, making the data if dir has none. stop ends
// it and keeps the data.
func Start(dir string) (databaseURL string, stop func(), err error) {
	s, err := startServer(dir)
	if err != nil {
		return "", nil, err
	}
	return s.url("postgres"), s.stop, nil
}

type server struct {
	process *os.Process
	socket  string // directory of the socket
	remove  string // directory to remove at the end, if any
	ended   bool
}

func startServer(dir string) (*server, error) {
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
	own := func(path string) error {
		if cred == nil {
			return nil
		}
		return os.Chown(path, int(cred.Uid), int(cred.Gid))
	}
	if err := own(dir); err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A",
			"trust", "-E", "UTF8",
			"--locale=C", "--no-sync")
		cmd.Dir, cmd.SysProcAttr = dir, attributes(cred)
		if out, err := cmd.CombinedOutput(); errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("initdb: %w: the user postgres must be able to enter every "+
				"folder above %s; "+
				"use another directory", err, dir)
		} else if err != nil {
			return nil, fmt.Errorf("initdb: %w: %s", err, out)
		}
	}
	s := &server{socket: dir}
	if len(dir) > 80 { // a socket's path has at most 107 bytes
		if s.socket, err = os.MkdirTemp("", "pg"); err != nil {
			return nil, err
		}
		s.remove = s.socket
		if err := own(s.socket); err != nil {
			return nil, err
		}
	}
	logFile, err := os.Create(filepath.Join(dir, "postgres.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }()
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", s.socket, "-c", "listen_addresses=",
		"-c", "fsync=off",
		"-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=200", "-c",
		"autovacuum_naptime=10s")
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = dir, attributes(cred), logFile, logFile
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.process = cmd.Process
	if err := s.wait(); err != nil {
		s.stop()
		text, _ := os.ReadFile(logFile.Name())
		return nil, fmt.Errorf("start postgres: %w\n%s", err, text)
	}
	return s, nil
}

// wait blocks until the server takes connections.
func (s *server) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.url("postgres"))
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

func (s *server) url(database string) string {
	q := url.Values{"host": {s.socket}, "sslmode": {"disable"}}
	return "postgres://postgres@/" + url.PathEscape(database) + "?" + q.Encode()
}

// stop ends the server, connections and all.
func (s *server) stop() {
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
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres to "+
			"run it as: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
