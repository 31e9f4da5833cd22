// Package limits holds what a limit is and which limits apply to a request.
//
// A [Limit] is one row: at most MaxTPS transactions per second for a gateway, an
// endpoint, or each value of a descriptor key (Per). A [Table] is an immutable
// compiled set of all rows; [Current] publishes one Table at a time:
//
//	pgsync, filesync --> NewTable / Apply --> Current.Store
//	                                             |
//	request --> Current.Load --> Table.Rules(domain, gateway) --> Rules.Endpoint(...)
//
// Invariant: a Table and every Limit in it never change after NewTable or Apply
// returned them, so that a request reads one of them without a lock.
//
// The package does not count anything (package buckets does), knows no store, and
// reads no clock but through [Clock]. A row that breaks a bound is refused with an
// error that names the field and the value; it never panics.
package limits
