package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// ErrPooled says that a pooler hands the database's sessions from one client to another.
var ErrPooled = errors.New("a pooler in transaction mode, such as pgbouncer with pool_mode = transaction, " +
	"stands between this process and PostgreSQL, and LISTEN, locks and prepared statements need a session " +
	"of their own: set pool_mode = session for this database, or connect to PostgreSQL itself")

// checkSessions fails with [ErrPooled] if conn does not keep its session. Within a pooler's transaction mode
// two connections have one session, or one connection has another session than before.
func checkSessions(ctx context.Context, conn *pgx.Conn, config *pgx.ConnConfig) error {
	second, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { _ = second.Close(ctx) }()

	mine, err := sessionOf(ctx, conn)
	if err != nil {
		return err
	}
	// An open transaction keeps its session to itself.
	if _, err := second.Exec(ctx, "BEGIN", pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	other, err := sessionOf(ctx, second)
	if err != nil {
		return err
	}
	if other == mine {
		return ErrPooled
	}
	again, err := sessionOf(ctx, conn)
	if err == nil && again != mine {
		err = ErrPooled
	}
	return err
}

// sessionOf is the process id of the session that serves a connection now. It is asked for without a prepared
// statement, which a pooler in transaction mode breaks.
func sessionOf(ctx context.Context, conn *pgx.Conn) (pid int, err error) {
	err = conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	return pid, err
}
