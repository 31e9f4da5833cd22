// Package load measures how long a million limits take until they are in force, and how long one
// changed row among them: the real binary, from a real Postgres and from its state file.
//
//	go test -tags e2e -run '^$' -bench . -benchtime 1x ./bench/load -args -out FILE
//
//	start --> /readyz: limits loaded    from Postgres; from limits.json while Postgres is down or hangs
//	COMMIT --> an answer shows it       200 changes of one row, one after the other
//	reload                              all rows again over a new connection, beside the table in force
//
// Memory is what /proc says of the process; a peak counts from the step before.
package load
