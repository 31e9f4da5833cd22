// Package pgsync keeps the limits in force equal to the rows of tps_limits in Postgres.
//
//	tps_limits --trigger--> tps_limits_history --NOTIFY, poll--> Sync --> limits.Current
//	     ^                                                        |
//	  Put, Delete (API)                                           v
//	                                                     limits.json in the data directory
//
// Each connection begins with a load of all rows in one transaction. After that only what is
// newer in the history is read: its ids are given in the order of commits, so the last id seen
// says exactly what is missing. NOTIFY makes a change visible at once, the poll finds what a
// broken LISTEN (PgBouncer, a hot standby) or a lost connection missed.
//
// Invariants: limits are never replaced by nothing because of an error. A database whose newest
// id is below the last one seen, or that is empty without a change that says so, is not believed:
// it was restored, or is the wrong one. A row that breaks a bound is passed over, counted and
// logged; it costs no other row, and its last good version, if this replica has seen one, stays
// in force.
//
// While Postgres is away the last good limits stay in force; a start without it serves those of
// limits.json, and readiness says so. Everything that waits for Postgres has a timeout, so that a
// server that hangs is given up like one that is gone.
//
// The package does not know the schema's migrations (package migrations does), and no request
// waits for it.
package pgsync
