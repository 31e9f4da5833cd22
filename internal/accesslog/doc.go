// Package accesslog turns what Envoy tells of finished requests into transactions.
//
//	StreamAccessLogs --> visitor ----------------+
//	LogsService/Export --> export --> facts -----+--> entry --> Mapping, namer --> transaction
//	lines of JSON -----> jsonObject --> facts ---+
//
// An entry is what was told, whatever way it came; a Mapping says what of it is the gateway and the
// endpoint. What comes over gRPC goes to Deps.Record, the transactions of a message together; a line
// is given back to its caller.
//
// Envoy never waits, and nothing that a client of Envoy chooses may end a stream, fail a request or
// cost another entry. So messages are decoded by hand: Envoy passes bytes of its clients on, and the
// protobuf library would refuse a whole message for one string that is not valid UTF-8. Only the
// fields that count are read, in the memory of the message, and a name that has been seen before is
// not copied again. One bad entry never costs the others of its message.
package accesslog
