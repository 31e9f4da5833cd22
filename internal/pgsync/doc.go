// Package pgsync keeps the limits in force equal to the rows of tps_limits in Postgres.
//
//	tps_limits --trigger--> tps_limits_history --NOTIFY, poll--> Sync --> limits.Current
//	     ^                                                        |
//	  Put, Delete (API)                                           v
//	                                                     limits.json in the data directory
//
// The first load reads all rows in one transaction. After that only what is newer in the
// history is read: its ids are given in the order of commits, so the last id seen says exactly
// what is missing. NOTIFY makes a change visible at once, the poll finds what a broken LISTEN
// (PgBouncer) or a lost connection missed.
//
// Invariants: limits are never replaced by nothing because of an error; a database whose newest
// id is below the last one seen is not believed (it was restored, or is the wrong one). While
// Postgres is away the last good limits stay in force; a start without it serves those of
// limits.json and says so. A row that breaks a bound is passed over, counted and logged, and
// costs no other row.
//
// The package does not migrate the schema (package migrations does), and no request waits for
// it.
package pgsync
