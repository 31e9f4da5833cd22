// Package testenv starts the real servers that tests run against: Postgres, Envoy, Prometheus,
// and ratelimitd itself. Nothing here stands in for a server.
//
// Each is a child process on free ports with a directory of its own. It is killed when its test
// ends, and by the kernel when the test binary ends in any other way. A server that is not
// installed fails the test; `make deps` installs it.
//
//	TestMain --> Main --> m.Run --> Database (a clone of a migrated template) --> the test
//	                  \--> stops the shared Postgres, looks for goroutines that are left
//
// The Postgres of [Shared] is one per test binary and started by the first test that asks for
// it; a test that kills or hangs a server takes its own from [NewPostgres]. Envoy runs the files
// of envoy/ as users copy them; [Addresses] is the only thing that is replaced.
package testenv
