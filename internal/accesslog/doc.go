// Package accesslog turns what Envoy tells of finished requests into transactions.
//
//	StreamAccessLogs --> decode --> entry --> transaction --> Deps.Record, a message at a time
//
// Envoy never waits, and nothing that a client of Envoy chooses may end a stream or cost another
// entry. So entries are decoded by hand: Envoy passes bytes of its clients on, and the protobuf
// library would refuse a whole message, and end its stream, for one string that is not valid
// UTF-8. One bad entry never costs the others of its message.
package accesslog
