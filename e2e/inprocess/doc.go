// Package inprocess holds tests of a whole deployment in one process: a global and two zones on
// embedded stores, wired as the commands wire them, with stand-ins for the proxies and real TLS
// between all. They cover what only the wiring can get wrong, and cost seconds where the tests with
// real programs cost minutes.
package inprocess
