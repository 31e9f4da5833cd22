// Package traffic says what was measured: transactions, batches of them with their place in the
// log of the process that measured them, and their forms in that log and in JSON.
//
// Everything that measures (package accesslog, the API) makes transactions; everything that
// counts or keeps them (packages recorder, rollup, history, collector) takes them. Names are made
// fit to be stored where a transaction is made, by Clean, so that no later step can fail on them.
//
// The package does no I/O and keeps no state.
package traffic
