package postgres

import (
	"errors"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/meridian-mesh/meridian/store/storetest"
	"github.com/meridian-mesh/meridian/test/pgtest"
)

// A pooler in transaction mode is named at the start, with the cure, instead of failing later.
func TestPoolerInTransactionMode(t *testing.T) {
	t.Parallel()
	direct := pgtest.New(t)
	_, err := Open(t.Context(), Config{URL: startPooler(t, direct), Sealer: storetest.PlainSealer{}})
	if !errors.Is(err, ErrPooled) {
		t.Errorf("Open = %v, want ErrPooled", err)
	}
	open(t, direct) // which has nothing of the failed try in its way
}

// pooler is a pooler in transaction mode: all its clients share one session with the server, which is a
// client's own only within a transaction.
type pooler struct {
	session sync.Mutex // held from a message on until the server is idle
	server  *pgproto3.Frontend
	started []pgproto3.BackendMessage // what the server said before it was ready
}

// startPooler starts a pooler before a database and gives its URL.
func startPooler(t *testing.T, direct string) string {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", u.Query().Get("host")+"/.s.PGSQL.5432")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &pooler{server: pgproto3.NewFrontend(conn, conn)}
	p.server.Send(&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersionNumber,
		Parameters:      map[string]string{"user": u.User.Username(), "database": u.Path[1:]},
	})
	if err := p.server.Flush(); err != nil {
		t.Fatal(err)
	}
	for idle := false; !idle; {
		m, err := p.server.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := m.(*pgproto3.ParameterStatus); ok {
			kept := *s
			p.started = append(p.started, &kept)
		}
		_, idle = m.(*pgproto3.ReadyForQuery)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				defer func() { _ = c.Close() }()
				if err := p.serve(c); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Logf("a client of the pooler: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		clients.Wait()
	})
	port := l.Addr().(*net.TCPAddr).Port
	return "postgres://" + u.User.Username() + "@127.0.0.1:" + strconv.Itoa(port) + u.Path +
		"?sslmode=disable"
}

func (p *pooler) serve(conn net.Conn) error {
	client := pgproto3.NewBackend(conn, conn)
	if _, err := client.ReceiveStartupMessage(); err != nil {
		return err
	}
	client.Send(&pgproto3.AuthenticationOk{})
	for _, m := range p.started {
		client.Send(m)
	}
	client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := client.Flush(); err != nil {
		return err
	}
	mine := false
	defer func() {
		if mine {
			p.session.Unlock()
		}
	}()
	for {
		m, err := client.Receive()
		if err != nil {
			return err
		}
		if _, end := m.(*pgproto3.Terminate); end {
			return nil
		}
		if !mine {
			p.session.Lock()
			mine = true
		}
		p.server.Send(m)
		if err := p.server.Flush(); err != nil {
			return err
		}
		status := byte(0)
		for status == 0 {
			answer, err := p.server.Receive()
			if err != nil {
				return err
			}
			client.Send(answer)
			if ready, ok := answer.(*pgproto3.ReadyForQuery); ok {
				status = ready.TxStatus
			}
			if err := client.Flush(); err != nil {
				return err
			}
		}
		if status == 'I' {
			p.session.Unlock()
			mine = false
		}
	}
}
