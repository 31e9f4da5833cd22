// Package recorder keeps what was measured: it counts every transaction at once, and brings each
// to the stores that keep it for good, however long these are away.
//
//	Record  --+--> figures (Prometheus), windows (memory)
//	          +--> spool --> a feed per sink: read, batch, Write, commit the place --> sink
//	Receive -----> the sinks, at once; then figures and windows
//
// Whoever records never waits for a disk or a sink. A sink that is slow or dead has a feed of its
// own and costs no other. Without sinks nothing is written to disk. A batch is written again until
// the sink has answered: sinks pass over what they have by its source and offset, so that nothing
// comes twice (docs/decisions/0009). One bad row never costs the others of its batch.
//
// The package knows nothing of limits and imports none of the packages that decide.
package recorder
