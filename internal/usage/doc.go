// Package usage keeps what windows of a minute or longer have used from one process to the next:
// a limit of 10,000 a day would else begin anew with every restart.
//
//	buckets.Engine --Usage--> usage.json in the data directory --Restore--> buckets.Engine
//
// The file is written every few seconds, never in more than a twentieth of the time, and at the stop.
// So a process that is killed forgets the last few seconds. The file is replaced whole or not at
// all. A file that cannot be read, or a directory that cannot be written, is logged and counted, and
// costs nothing but the usage. Nothing is written, and no directory made, while no such limit has
// been used.
package usage
