// Package recorder measures: what Envoy's access log tells becomes transactions, figures and
// rows of tps_metrics.
//
//	Envoy --StreamAccessLogs--> decode --> Transaction --+--> figures, Prometheus (at once)
//	                                                     |
//	                                                     +--> queue --> batches --> Postgres
//
// Envoy never waits: what has no room in the queue is dropped and counted. Entries are decoded
// by hand, since Envoy passes bytes of its clients on and the protobuf library would refuse a
// whole message, and end its stream, for one string that is not valid UTF-8. One bad entry
// never costs the others of its message, one bad row never the others of its batch.
//
// A batch whose commit got no answer is written again, so that rows can come twice; nothing
// that is in the queue survives the process. The package knows nothing of limits and imports
// none of the packages that decide.
package recorder
