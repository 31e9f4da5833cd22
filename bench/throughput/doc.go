// Command throughput compares ratelimitd with bare grpc-go servers that answer a constant of the
// same size: the same client, the same frame, alternating rounds in one run.
//
//	h2load --frame--> ratelimitd   limits from a file of 1,000 rows, a decision per request
//	       \--frame--> bare        go-control-plane's generated service, a constant message
//	        \-frame--> raw         no protobuf at all: bytes in, the same bytes out
//
// The first ratio, ratelimitd to bare, is what bench/README.md promises. The second one, to raw,
// says how much is left to gain by anything that is not grpc-go itself.
//
// Every server is a process of its own, so that /proc tells what a request costs it. All
// share the machine with h2load, and only one is under load at a time. A run fails where a
// request failed, or where ratelimitd did not decide every one of them.
package main
