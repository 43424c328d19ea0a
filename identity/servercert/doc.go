// Package servercert is the certificate of a control plane's TLS ports, and how clients verify it.
//
// # Server
//
// A control plane without a configured certificate makes its own CA and server certificate once, in its
// data directory: ca.crt, ca.key, tls.crt, tls.key, the keys with mode 0600. The CA is kept; the server
// certificate is made again from the same CA when it nears its end or lacks a host name. Damaged files
// are an error that names the file: nothing is recreated in their place, because tokens in use carry the
// CA's pin.
//
// # Pins
//
// A pin is the hex SHA-256 of a certificate's SubjectPublicKeyInfo. Tokens carry the pins of the control
// plane that issued them. A client with pins accepts a server if a certificate of the chain that the
// server sent has one of them and signs (through the others) the server's own certificate, or is it. The
// host name is not compared then: whichever server holds the pinned key is the control plane, whatever it
// is called.
//
// A [Server] is safe for concurrent use.
//
// No example: what it makes is a directory of files, and what it verifies a TLS connection.
package servercert
