// Package measure is what the benchmarks of this directory share: a ratelimitd of its own, what
// /proc says of a process, and the head of a result.
package measure
