// Package pgtest gives tests a real PostgreSQL.
//
// [New] creates a database for one test, on the server that the environment variable
// MERIDIAN_TEST_POSTGRES_URL names, or else on one that is started from the installed server binaries,
// once per test process. [Start] starts such a throwaway server in a directory of its own; see
// internal/pgserver for what it is.
//
// A package that uses New wraps its TestMain: goleak.VerifyTestMain(pgtest.Stopping(m)). That stops the
// server and removes its files after the last test.
//
// No example: it needs PostgreSQL and a test.
package pgtest
