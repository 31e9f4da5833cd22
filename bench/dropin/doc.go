// Package dropin measures ratelimitd beside envoyproxy/ratelimit, over the same descriptor file.
//
//	go test -tags e2e -run '^$' -bench . -benchtime 1x -timeout 0 ./bench/dropin
//
//	requests, as fast as they are answered --> envoyproxy/ratelimit --> Redis
//	                                       --> ratelimitd
//
// Rounds alternate. The client shares the machine with the servers, and sends bytes that were made
// before. There is only test code.
package dropin
