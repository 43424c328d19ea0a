// Package apibench measures the management API with real processes: global control planes on a
// store, two zones connected to them, and concurrent clients over REST.
//
// No example: it needs the built program, and PostgreSQL's server programs for --store postgres.
package apibench
