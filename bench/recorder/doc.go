// Package recorder measures what it costs to record transactions, and what decisions notice of it.
//
//	go test -tags e2e -run '^TestSoak$' -bench . -benchtime 1x -timeout 0 ./bench/recorder -args -soak 10m -out FILE
//
//	messages of 100 entries --gRPC streams--> ratelimitd --> figures, windows
//	(marshalled before)                          ^   |
//	decisions at a fixed rate, timed ------------+   +--> log on disk --> Postgres: there, away, hanging
//
//	BenchmarkServer     CPU of the process for each entry: figures alone, with the log, with Postgres
//	BenchmarkDecisions  latency of decisions while the recorder is saturated and its database hangs,
//	                    beside those of a ratelimitd that records nothing; alternating rounds
//	TestSoak            memory while everything is at its bound and Postgres comes and goes; at the end
//	                    every transaction that was received has been written, or counted as lost
//
// Clients share the machine with the servers, so they are kept cheap: the messages are made before,
// and the codec passes bytes on. A run fails where a target is missed.
package recorder
