// Package pgtest gives tests and the demo a real PostgreSQL.
//
// [New] makes a database for one test, on the server that the environment variable
// MERIDIAN_TEST_POSTGRES_URL names, or else on one that is started from the installed server
// binaries, once per test process. [Start] starts such a throwaway server in a directory.
//
// # The server
//
// It listens on a Unix socket in its directory only, trusts whoever can reach that, and does not
// flush to disk (fsync=off): it survives a crash of itself but not of the machine, so keep nothing
// in it. PostgreSQL refuses to run as root; then it runs as the user postgres and owns its
// directory, whose parents that user must be able to enter. On Linux the server ends with the
// process that started it.
//
// # goleak
//
// A package that uses New wraps its TestMain: goleak.VerifyTestMain(pgtest.Stopping(m)). That stops
// the server and removes its files after the last test.
package pgtest
