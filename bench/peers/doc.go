// Package peers measures what a decision costs beside other limiters that Go programs embed, in one
// run, on the same keys:
//
//	one number --> key in place --> ratelimitd     gateway and endpoint, all or nothing
//	                            --> x/time/rate    one limiter each, in a map of 64 shards
//	                            --> throttled      memstore
//	                            --> go-limiter     memorystore
//
// The others decide over one level only, which makes their work about half of ours. It is a module of
// its own, so that they are no dependencies of ratelimitd. There is only test code: `make bench/peers`
// runs it.
package peers
