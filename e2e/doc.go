// Package e2e tests the programs from outside: scripts in testdata run the real binaries as a
// person would, wrong turns above all. Each script has a loopback network of its own, $NET.0.1 and
// so on, so that default ports never clash. It has no code of its own beside the tests; the long
// scenarios with traffic are the demo (package demo).
package e2e
