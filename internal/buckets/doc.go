// Package buckets decides: it holds the live state of every limit and answers whether a
// request is admitted, refused, or has to wait for its turn.
//
//	Request --> Engine.Decide --> gate of (domain, gateway) --> buckets of its levels
//	                                   | no room, may wait
//	                                   v
//	                            lane (FIFO) --> turn --> granted in virtual time
//
// A bucket is an exact token bucket in integers, or counts in a fixed or sliding window. All buckets and queues of one gateway of
// one domain sit in one gate, behind one mutex; a request over several gateways locks its
// gates in ascending order of their ids.
//
// Invariants: a request is charged to all of its buckets or to none; in any interval of
// length t at most burst + rate·t hits pass a bucket, net of refunds; nobody overtakes
// within a lane.
//
// Time comes in as an argument (nanoseconds of a limits.Clock); only [Engine.Do] and the one
// timer of a gate that has waiters read the clock. The package does no I/O and no logging,
// and a request of whatever shape never makes it panic. Buckets of names that no row writes
// out are bounded by Config.MaxBuckets, waiters by Config.MaxWaiters; what happens at the
// bound is counted in [Stats].
package buckets
