// Package descsync keeps the domains in force equal to a source of descriptor files: a directory ([Dir])
// or an xDS server ([XDS]).
//
//	directory --fsnotify, poll--> ReadDir --> Set --> publish
//	xDS server --ADS stream--> SetFromResources --^ |
//	data directory --Load--^                        '--> lastgood --> data directory
//
// Invariants: bad content never replaces good one, in this process or, by what is kept in the data
// directory, of an earlier one; a source that cannot be reached changes nothing.
package descsync
