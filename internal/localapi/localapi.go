// Package localapi is how a program on a control plane's own machine reaches it without a token.
//
// # What lies in the data directory
//
//	admin.token   the first administrator's token, mode 0600
//	api.sock      a UNIX socket of the API, mode 0600: the system says who connects
//	api.address   where the API listens without TLS, so that a URL finds the socket
//
// Who may be administrator is decided by possession: by being able to read the one or to connect to the
// other. The directory is of mode 0700, so both are for the user of the process and for root.
//
// # How it is found
//
// [Open] notes the data directory in ~/.meridian/running, where [Find] looks first; then Find looks into
// the directories that control planes take by default, and below /var/lib/meridian. Nothing is sent
// to an address to find out who is there: a token never reaches a process that only took a port.
package localapi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names of files in a data directory.
const (
	TokenFile   = "admin.token"
	SocketFile  = "api.sock"
	addressFile = "api.address"
)

// systemDir is where packages of systems keep data directories.
const systemDir = "/var/lib/meridian"

// maxSocketPath is the longest path that a socket address holds (unix(7)), less its end.
const maxSocketPath = 107

// Listener is a socket of the API and what says where it is.
type Listener struct {
	net.Listener

	files []string
	dir   *os.File
}

// Open listens on the socket in the data directory dir. address is that of the API without TLS, empty if
// there is none. A socket that a process left behind is replaced.
func Open(dir, address string) (*Listener, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	l := &Listener{}
	path := filepath.Join(dir, SocketFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if l.dir, err = os.Open(dir); err != nil {
		return nil, err
	}
	if l.Listener, err = net.Listen("unix", shorten(path, l.dir)); err != nil {
		_ = l.dir.Close()
		return nil, err
	}
	l.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	l.files = append(l.files, path)
	err = os.Chmod(path, 0o600)
	if err == nil {
		file := filepath.Join(dir, addressFile)
		l.files = append(l.files, file)
		err = os.WriteFile(file, []byte(address+"\n"), 0o600)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	// Without a home directory, callers have to name the data directory.
	if home, err := os.UserHomeDir(); err == nil {
		sum := sha256.Sum256([]byte(dir))
		note := filepath.Join(running(home), hex.EncodeToString(sum[:8]))
		if os.MkdirAll(filepath.Dir(note), 0o700) == nil &&
			os.WriteFile(note, []byte(dir+"\n"), 0o600) == nil {
			l.files = append(l.files, note)
		}
	}
	return l, nil
}

// Close ends the socket and removes what says where it is.
func (l *Listener) Close() error {
	for _, f := range l.files {
		_ = os.Remove(f)
	}
	_ = l.dir.Close()
	return l.Listener.Close()
}

// WriteToken keeps the administrator's token in the data directory, for its owner alone.
func WriteToken(dir, token string) error {
	path := filepath.Join(dir, TokenFile)
	if old, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(old)) == token {
		return os.Chmod(path, 0o600)
	}
	next := path + ".new"
	if err := os.WriteFile(next, []byte(token+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// ControlPlane is one that runs on this machine.
type ControlPlane struct {
	// Dir is its data directory.
	Dir string
	// Address of its API without TLS, HOST:PORT; empty if it has none.
	Address string
}

// Name is the last part of the data directory, for lists.
func (c ControlPlane) Name() string { return filepath.Base(c.Dir) }

// dialTime bounds the attempt to connect to a socket, which takes no time if anything listens.
const dialTime = 2 * time.Second

// Dial connects to the socket of the control plane with the data directory dir.
func Dial(dir string) (net.Conn, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return net.DialTimeout("unix", shorten(filepath.Join(dir, SocketFile), d), dialTime)
}

// shorten is another name for a path in dir that fits into the address of a socket.
func shorten(path string, dir *os.File) string {
	if len(path) <= maxSocketPath {
		return path
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}

// Find is the control planes of this machine that this user may connect to: that of dir alone unless dir is
// empty. denied are data directories that this user may not look into.
func Find(dir string) (found []ControlPlane, denied []string) {
	dirs := []string{dir}
	if dir == "" {
		dirs = candidates()
	}
	for _, d := range dirs {
		c, err := Dial(d)
		if err != nil {
			if errors.Is(err, os.ErrPermission) {
				denied = append(denied, d)
			}
			continue
		}
		_ = c.Close()
		address, _ := os.ReadFile(filepath.Join(d, addressFile))
		found = append(found, ControlPlane{Dir: d, Address: strings.TrimSpace(string(address))})
	}
	return found, denied
}

func running(home string) string { return filepath.Join(home, ".meridian", "running") }

func candidates() []string {
	var out []string
	if home, err := os.UserHomeDir(); err == nil {
		notes, _ := filepath.Glob(filepath.Join(running(home), "*"))
		for _, n := range notes {
			if dir, err := os.ReadFile(n); err == nil {
				out = append(out, strings.TrimSpace(string(dir)))
			}
		}
		below, _ := filepath.Glob(filepath.Join(home, ".meridian", "*", SocketFile))
		for _, s := range below {
			out = append(out, filepath.Dir(s))
		}
	}
	below, _ := filepath.Glob(filepath.Join(systemDir, "*"))
	out = append(out, systemDir)
	out = append(out, below...)
	slices.Sort(out)
	return slices.Compact(out)
}

// Serves says that a URL is that of the control plane's API without TLS, as callers on this machine write it.
func (c ControlPlane) Serves(rawURL string) bool {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "http" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = "5681"
	}
	host, at, err := net.SplitHostPort(c.Address)
	if err != nil || at != port {
		return false
	}
	want, own := net.ParseIP(u.Hostname()), net.ParseIP(host)
	if u.Hostname() == "localhost" {
		// Others of the loopback network are control planes of their own.
		want = net.IPv4(127, 0, 0, 1)
		if own.Equal(net.IPv6loopback) {
			want = own
		}
	}
	switch {
	case want == nil || own == nil:
		return u.Hostname() == host
	case own.IsUnspecified():
		return want.IsLoopback()
	}
	return want.Equal(own)
}
