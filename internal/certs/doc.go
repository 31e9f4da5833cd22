// Package certs holds the certificate that both ports show, and the authorities of the clients
// that they ask for one.
//
//	TPS_TLS_CERT, _KEY, _CLIENT_CA --filewatch--> load --> atomic pointer --> next handshake
//
// Files are read again when they change, however they are written. A handshake takes what is in
// force when it begins; connections that are open stay as they are, so that a rotation costs no
// request. Files that cannot be used, or a key that does not fit its certificate, never replace
// what is in force: readiness, a metric and the log say what is wrong with them.
//
// Sessions are not resumed: a resumed one would carry on the identity that a client proved to
// authorities that may have been replaced since. Envoy keeps its connections for long, so that
// full handshakes are rare.
//
// [Client] is the other side: what a client of somebody else's TLS needs.
package certs
