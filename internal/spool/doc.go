// Package spool is a bounded log of frames in a directory, which any number of readers go through,
// each at its own pace and across restarts.
//
//	Append --> memory --writer--> active segment --roll--> sealed segments --all have passed--> removed
//	        (MaxPending)             |      ^ fsync               |
//	                                 +--------------+-------------+
//	                                                v
//	                                  Reader.Read, Reader.Commit --> NAME.cursor
//
// A frame is some bytes that stand for n records. The package does not look into them. Each record
// has a place: the run, which is the name of one life of the log, and an offset, which begins at 0
// in each run and grows by one. A segment is a file of frames of one run, named after the run and
// its first offset, so that names sort by age.
//
// Invariants: what Append has taken is either written once or counted as lost; of what Store has taken
// its caller is told. A reader gets records in the order of their offsets, none twice unless it has not
// committed them, and none that fails its checksum. Append never waits for the disk. The files of all
// segments have at most Config.Max bytes.
//
// How it fails: where the disk is full or broken, at Open or later, the records of that write are lost
// and counted, and the next write is tried as usual. At Config.Max the oldest segment goes, and what a
// reader had not committed of it is counted as lost. A frame that is torn or damaged ends its segment;
// frames before it and later segments are read. Write(2) is all that a reader waits for, and all that
// survives kill -9; a loss of power costs at most what came since the last fsync.
//
// The package does not keep two processes from using one directory, and sends nothing anywhere.
package spool
