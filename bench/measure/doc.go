// Package measure is what the benchmarks of this directory share: a ratelimitd of its own and its
// metrics, what /proc says of a process, a codec for clients that cost little, and the head of a
// result.
package measure
