// Command reload measures what decisions cost in time while limits change: the engine and a table of
// a million rows in one process, requests at a fixed rate that leaves half of the CPU, and rounds
// with and without changes by turns.
//
//	rows again --> limits.NewTable --> Current.Store   all rows, one load after the other
//	one row    --> Table.Apply ------> Current.Store   100 times a second
//	pacer -pipe-> goroutine --> Engine.Do              latency of each request, from when it was asked
//
// The pacer is a process of its own, so that a pause of this one delays all requests that come in it,
// as it would those of clients.
package main
