// Package rls answers Envoy's rate limit service: ShouldRateLimit of RateLimitService v3 over
// gRPC, and the same over HTTP as POST /json.
//
//	transport --> Codec --> Request.UnmarshalWire --> prepare --> Engine.Do --> answer --> transport
//
// Envoy lets a request through when its rate limit service answers with an error, and the
// values of descriptors are bytes that a client chose. So messages are decoded by an own
// decoder, which takes every byte string, and the only errors are those for a caller that
// sends no RateLimitRequest at all: InvalidArgument, and Unavailable while no limits were ever
// loaded. What goes into headers is printable ASCII.
//
// The package decides nothing itself (package buckets does) and reaches no store.
package rls
