// Package rollup counts transactions: by key (domain, gateway, endpoint) and by span of time, with
// a histogram of their durations. Counts of parts add up to those of the whole.
//
//	transaction --Names--> key --+--Windows--> Snapshot: the last hour, in memory
//	                             |
//	                             +--Group----> Groups: rows by second, minute and hour, to be stored
//
//	requests by second --WhatIf--> Outcome: what a limit would have refused
//
// Percentiles are within [RelativeError] of the exact ones, however many histograms are merged. The
// number of keys is bounded by [Names], whatever names clients invent; the memory of a key by its
// slots. Counts do not overflow but stay at the largest.
//
// The package is pure: time comes in as an argument, there is no I/O, and nothing runs on its own.
// What is stored belongs to package history, metrics to package recorder.
package rollup
