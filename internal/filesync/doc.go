// Package filesync is the embedded store of limits: one YAML file, for those who have no
// Postgres.
//
//	limits file --fsnotify, poll--> parse --> limits.Current
//	     ^                                        |
//	     +------- Put, Delete (API), atomic <-----+
//
// Invariants: a bad file never replaces good limits; a write replaces the file whole or not at
// all, and is made upon what the file says at that moment, so that a change by hand is not
// lost. Comments at rows stay.
//
// A file that is missing at the start is an empty one; one that goes missing later leaves the
// limits as they were, and readiness says so.
package filesync
