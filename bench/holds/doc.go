// Package holds measures what requests cost that wait for their turn.
//
//	go test -tags e2e -run '^$' -bench . -benchtime 1x ./bench/holds -args -out FILE
//
//	BenchmarkHolds/engine   100,000 goroutines in Engine.Do, beside as many that wait for nothing but
//	                        their context: the difference is the engine's own
//	BenchmarkHolds/streams  20,000 calls to the real binary over two connections: RSS of the process
//
// In front of all stands a request for more tokens than come during the measurement, so that nobody
// is granted anything: what the CPU does meanwhile is the cost of waiting alone.
package holds
