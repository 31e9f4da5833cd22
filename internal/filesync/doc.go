// Package filesync is the embedded store of limits: one YAML file, for those who have no
// Postgres.
//
//	limits file --fsnotify, poll--> parse --> limits.Current
//	     ^                                        |
//	     +------- Put, Delete (API), atomic <-----+
//
// Invariants: a bad file never replaces good limits. A write replaces the file whole or not at
// all; it is made upon what the file says at that moment, so that an edit by hand is not lost,
// and only if the result reads as exactly the rows that it should hold. Comments stay, but for
// those of a row that is deleted.
//
// A file that is missing at the start is an empty one. Once there are limits, a file that goes
// missing or says nothing (somebody empties it before writing it again, a volume is gone)
// leaves them in force, readiness says so, and writes are refused; `limits: []` is how a file
// says that there are none.
//
// The file is written in full with every change, and takes about 25 times its size in memory
// while it is read: it is made for hundreds of limits, is refused above [MaxFile], and whoever
// has more wants Postgres. Nothing keeps two processes from writing one file; a change that the
// other makes in the microseconds before a rename is lost.
package filesync
